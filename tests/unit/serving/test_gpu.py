"""The GPU's memory, asked for where no GPU is used."""

from __future__ import annotations

import sys

import pytest

from segloop.serving import gpu_memory


def test_a_process_without_torch_has_none_and_loads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert gpu_memory() == {}
    assert "torch" not in sys.modules


def test_a_process_that_uses_no_gpu_makes_no_context_on_one() -> None:
    import torch

    before = torch.cuda.is_initialized()
    assert bool(gpu_memory()) == before
    assert torch.cuda.is_initialized() == before
