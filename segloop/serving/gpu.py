"""The GPU's memory, as torch knows it; nothing where this process does not use a GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def gpu_memory() -> Mapping[str, float]:
    """Bytes of the GPU's memory: `allocated` and `reserved` by this process, and `free`. Imports nothing."""
    cuda = sys.modules.get("torch.cuda")
    # while another thread imports torch, its modules are known before they are complete
    is_initialized = getattr(cuda, "is_initialized", None)
    # a context on the GPU, which a question would make, takes half a gigabyte
    if cuda is None or is_initialized is None or not is_initialized():
        return {}
    return {
        "allocated": float(cuda.memory_allocated()),
        "reserved": float(cuda.memory_reserved()),
        "free": float(cuda.mem_get_info()[0]),
    }
