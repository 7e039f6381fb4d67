"""`_rle.c`: the brush code's loops where setup.py could compile them, called with arrays for pointers."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: `_rle.c` loads 8 bytes at once, so it may read this many beyond a code.
_PADDING = bytes(8)
#: A code of a run takes at most 27 bits; longer runs take a code for each 16384 pixels begun.
_BYTES_A_CODE, _LONGEST_RUN_PX = 4, 1 << 14
#: A mask without two equal neighbours takes the most bits a pixel: 14.
_BYTES_A_PIXEL = 2
_MARGIN_BYTES = 64

_SIZE, _INT, _POINTER, _BYTES = ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p


class Library:
    """The functions of `_rle.c`. Arrays must be contiguous and of the type stated."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._decode = _declared(library.segloop_decode_rle, _BYTES, _SIZE, _INT, _BYTES, _POINTER, _SIZE)
        self._run_bounds = _declared(library.segloop_run_bounds, _POINTER, _SIZE, _POINTER, _SIZE)
        self._encode_mask = _declared(library.segloop_encode_mask, _POINTER, _SIZE, _INT, _POINTER, _SIZE)
        self._encode_runs = _declared(library.segloop_encode_runs, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE)

    def encode_mask(self, flat: NDArray[np.uint8], factor: int) -> bytes:
        """The code of the alphas `flat * factor`; `flat` is uint8 (N,), N from 1 to 2^30 - 1."""
        for room in (flat.size // 8 + _MARGIN_BYTES, flat.size * _BYTES_A_PIXEL + _MARGIN_BYTES):
            out = np.empty(room, np.uint8)
            written = self._encode_mask(flat.ctypes.data, flat.size, factor, out.ctypes.data, room)
            if written >= 0:
                break
        return out[:written].tobytes()

    def encode_runs(self, bounds: NDArray[np.int64], alphas: NDArray[np.uint8]) -> bytes:
        """The code of runs: run i, of `alphas[i]`, goes from pixel `bounds[i]` to `bounds[i + 1]`; some may be empty."""
        room = (alphas.size + int(bounds[-1]) // _LONGEST_RUN_PX) * _BYTES_A_CODE + _MARGIN_BYTES
        out = np.empty(room, np.uint8)
        written = self._encode_runs(bounds.ctypes.data, alphas.ctypes.data, alphas.size, out.ctypes.data, room)
        return out[:written].tobytes()

    def run_bounds(self, flat: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Where each run of equal values in `flat`, uint8 (N,), begins, and N."""
        for room in (flat.size // 16 + _MARGIN_BYTES, flat.size + 1):
            bounds = np.empty(room, np.int64)
            written = self._run_bounds(flat.ctypes.data, flat.size, bounds.ctypes.data, room)
            if written >= 0:
                break
        return bounds[:written]

    def decode(self, data: bytearray, total: int, value_bits: int, sizes: list[int]) -> tuple[NDArray[np.uint8], int]:
        """The alphas of a code, uint8 (total / 4,), and how many values it holds, at most `total`.

        The header must have been checked: `value_bits` is 1 to 8, each of the 4 `sizes` 1 to 16, `total` a multiple
        of 4. Only the alphas of the values that the code holds are set.
        """
        alphas = np.empty(total // 4, np.uint8)
        values = self._decode(bytes(data + _PADDING), len(data), value_bits, bytes(sizes), alphas.ctypes.data, total)
        return alphas, values


def _declared(function: ctypes._NamedFuncPointer, *types: type) -> ctypes._NamedFuncPointer:
    function.argtypes, function.restype = types, _SIZE
    return function


@cache
def library() -> Library | None:
    """The compiled functions; None where they were not compiled, and NumPy does their work."""
    try:
        return Library(Path(__file__).with_name(f"_rle{EXTENSION_SUFFIXES[0]}"))
    except OSError:
        return None
