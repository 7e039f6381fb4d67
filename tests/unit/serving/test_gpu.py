"""The GPU's memory, asked for where no GPU is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segloop.serving import gpu_memory

ROOT = Path(__file__).resolve().parents[3]


def test_a_process_without_torch_has_none_and_loads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert gpu_memory() == {}
    assert "torch" not in sys.modules


def test_a_process_that_uses_no_gpu_makes_no_context_on_one() -> None:
    import torch

    before = torch.cuda.is_initialized()
    assert bool(gpu_memory()) == before
    assert torch.cuda.is_initialized() == before


@pytest.mark.slow
def test_who_asks_while_torch_is_imported_gets_an_answer() -> None:
    code = """
import threading
from segloop.serving.gpu import gpu_memory

errors, imported = [], threading.Event()

def ask():
    while not imported.is_set():
        try:
            assert gpu_memory() == {}
        except Exception as error:
            errors.append(repr(error))
            return

asking = threading.Thread(target=ask)
asking.start()
import torch
imported.set()
asking.join()
assert not errors, errors
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
