"""The GPU's memory, as torch knows it; nothing where this process does not use a GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def gpu_memory() -> Mapping[str, float]:
    """Bytes of the GPU's memory: `allocated` and `reserved` by this process, and `free`. Imports nothing."""
    torch = sys.modules.get("torch")
    # a context on the GPU, which a question would make, takes half a gigabyte
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "allocated": float(torch.cuda.memory_allocated()),
        "reserved": float(torch.cuda.memory_reserved()),
        "free": float(torch.cuda.mem_get_info()[0]),
    }
