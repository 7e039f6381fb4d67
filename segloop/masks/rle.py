"""Label Studio's run-length code for brush masks: `@thi.ng/rle-pack` over the RGBA values of an image.

The stream: the number of values (32 bits), the bits of a value less one (5), four length sizes less one (4 bits
each); then codes. A code is a bit that says run or literals, 2 bits that choose a length size, the length less
one in that many bits, and one value (a run) or as many as the length says (literals).
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack

Where a code begins is known only once the one before is read, which arrays are slow at. So `_rle.c` does the work
where it was compiled (see `native`); where not, NumPy does, in two to ten times the time, with the same results.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError
from segloop.masks import native

_HEADER_BITS = 32 + 5 + 4 * 4
_CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST_RUN_PX = (1 << _LENGTH_BITS[-1]) // _CHANNELS
#: The header's fields after the number of values, as one number of 21 bits.
_SIZES_FIELD = int("".join([f"{_VALUE_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTH_BITS)]), 2)


def encode_rle(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> list[int]:
    """The run-length code of a mask, as Label Studio's editor writes it, byte for byte.

    `mask` is uint8 (H, W) of alpha values (0 and 255: the editor shows a 1 as nearly transparent), or bool,
    which counts as 0 and 255.

    Raises:
        MaskError: the mask is not two-dimensional, empty, of another type, or of 2^30 pixels or more.
    """
    if mask.dtype not in (np.uint8, np.bool_):
        raise MaskError(f"a mask must be uint8 or bool, not {mask.dtype}.")
    flat, factor = _flat(mask).view(np.uint8), 255 if mask.dtype == np.bool_ else 1
    library = native.library()
    if library is not None:
        return list(library.encode_mask(flat, factor))
    bounds = _run_bounds(flat)
    return list(_pack(bounds, flat[bounds[:-1]] * np.uint8(factor)))


def encode_class_rle(values: NDArray[np.uint8] | NDArray[np.int32], wanted: Sequence[int]) -> list[list[int]]:
    """The run-length codes of the masks `values == value`, one for each wanted value, from one scan.

    `values` is an integer map (H, W), such as a class map; each code is what `encode_rle` gives for that mask.

    Raises:
        MaskError: the map is not two-dimensional, empty, not of integers, or of 2^30 pixels or more.
    """
    if values.dtype.kind not in "iu":
        raise MaskError(f"a class map must be of integers, not {values.dtype}.")
    flat = _flat(values)
    bounds = _run_bounds(flat)
    found = flat[bounds[:-1]]
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    codes = []
    for value in wanted:
        mine = order[np.searchsorted(ordered, value, "left") : np.searchsorted(ordered, value, "right")]
        gaps = np.empty(2 * mine.size + 2, np.int64)
        gaps[0], gaps[-1] = 0, flat.size
        gaps[1:-1:2], gaps[2:-1:2] = bounds[mine], bounds[mine + 1]
        alphas = np.zeros(gaps.size - 1, np.uint8)
        alphas[1::2] = 255
        codes.append(_encode_runs(gaps, alphas))
    return codes


def _flat(image: NDArray[Any]) -> NDArray[Any]:
    if image.ndim != 2 or not 0 < image.size * _CHANNELS < 1 << 32:
        raise MaskError(f"a mask must be (H, W) of 1 to {(1 << 32) // _CHANNELS - 1} pixels, not {image.shape}.")
    return np.ascontiguousarray(image).ravel()


def _run_bounds(flat: NDArray[Any]) -> NDArray[np.int64]:
    """Where each run of equal values begins in a contiguous array (N,), and N."""
    library = native.library()
    if library is not None and flat.dtype == np.uint8:
        return library.run_bounds(flat)
    return np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))


def _encode_runs(bounds: NDArray[np.int64], alphas: NDArray[np.uint8]) -> list[int]:
    """The code of runs of pixels: run i, of `alphas[i]`, goes from `bounds[i]` to `bounds[i + 1]`; some may be empty."""
    library = native.library()
    return list(_pack(bounds, alphas) if library is None else library.encode_runs(bounds, alphas))


def _pack(bounds: NDArray[np.int64], alphas: NDArray[np.uint8]) -> bytes:
    total = int(bounds[-1]) * _CHANNELS
    lengths_px = np.diff(bounds)
    if lengths_px.min() == 0:
        alphas = alphas[lengths_px > 0]
        lengths_px = lengths_px[lengths_px > 0]
    if lengths_px.max() > _LONGEST_RUN_PX:
        lengths_px, alphas = _split_long_runs(lengths_px, alphas)
    code_of, bits_of = _run_codes()
    # The header's fields are the first code. If that makes their number odd, one of no bits comes before it.
    first = (lengths_px.size + 1) % 2
    codes = np.zeros(first + 1 + lengths_px.size, np.uint64)
    bits = np.zeros(codes.size, np.uint64)
    codes[first], bits[first] = _SIZES_FIELD, _HEADER_BITS - 32
    codes[first + 1 :] = code_of[lengths_px] | alphas
    bits[first + 1 :] = bits_of[lengths_px]
    return total.to_bytes(4) + _joined(codes, bits)


def _joined(codes: NDArray[np.uint64], bits: NDArray[np.uint64]) -> bytes:
    """An even number of codes, of 14 to 27 bits but the first two, behind one another; the last byte is filled up."""
    pair_bits = bits[::2] + bits[1::2]
    pairs = (codes[::2] << bits[1::2] | codes[1::2]) << (64 - pair_bits)
    ends = np.cumsum(pair_bits)
    starts = ends - pair_bits
    word, offset = (starts >> 6).astype(np.int64), starts & 63
    words = np.zeros(int(word[-1]) + 2, np.uint64)
    # A pair has at most 54 bits, so it touches 2 words of 64, and at least 28, but the first: of those that begin in
    # one word, no two are 3 apart. A shift by 64 gives 0.
    for which in (slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)):
        words[word[which]] |= pairs[which] >> offset[which]
        words[word[which] + 1] |= pairs[which] << (64 - offset[which])
    return words.astype(">u8").tobytes()[: (int(ends[-1]) + 7) // 8]


def _split_long_runs(
    lengths_px: NDArray[np.int64], alphas: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The same runs, those too long for one code in pieces, as the editor splits them."""
    pieces = -(-lengths_px // _LONGEST_RUN_PX)
    split = np.full(int(pieces.sum()), _LONGEST_RUN_PX, np.int64)
    split[np.cumsum(pieces) - 1] = lengths_px - (pieces - 1) * _LONGEST_RUN_PX
    return split, np.repeat(alphas, pieces)


@cache
def _run_codes() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The code of a run of alpha 0, and its number of bits, by its length in pixels."""
    length = np.maximum(np.arange(_LONGEST_RUN_PX + 1) * _CHANNELS, 1)
    size = np.searchsorted(1 << np.array(_LENGTH_BITS), length)
    length_bits = np.array(_LENGTH_BITS)[size]
    codes = ((4 | size) << length_bits | (length - 1)) << _VALUE_BITS
    return codes.astype(np.uint64), (3 + _VALUE_BITS + length_bits).astype(np.uint64)


def decode_rle(rle: Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """The alpha channel of a run-length code: uint8 (height, width).

    Every code of the format is read, whatever its sizes and literals; true and false count as 1 and 0. The memory and time it takes are bounded by
    the code's own length and by `height * width`: the number of values is checked before anything is unpacked.

    Raises:
        MaskError: not bytes, a header that makes no sense, a size other than height * width * 4, or cut short.
    """
    data = _as_bytes(rle)
    total = _total(data)
    if min(height, width) < 1 or total != height * width * _CHANNELS:
        raise MaskError(
            f"the run-length code holds {total} values; an image of {width}x{height} pixels needs "
            f"{height * width * _CHANNELS}."
        )
    fields = int.from_bytes(data[4:7])
    value_bits = (fields >> 19) + 1
    sizes = [(fields >> shift & 15) + 1 for shift in (15, 11, 7, 3)]
    if value_bits > 8:
        raise MaskError(f"the run-length code has values of {value_bits} bits; a mask's have 8.")
    library = native.library()
    if library is not None:
        alphas, values = library.decode(data, total, value_bits, sizes)
    else:
        alphas, values = _decode(data, total, value_bits, sizes)
    if values < total:
        raise MaskError(f"the run-length code is cut short: it ends after {values} of {total} values.")
    return alphas.reshape(height, width)


def rle_pixels(rle: Sequence[int]) -> int:
    """How many pixels a run-length code says it holds.

    Raises:
        MaskError: not bytes, too short for a header, or a number of values that makes no whole pixels.
    """
    total = _total(_as_bytes(rle))
    if total == 0 or total % _CHANNELS:
        raise MaskError(f"the run-length code holds {total} values, which are no pixels of {_CHANNELS} values.")
    return total // _CHANNELS


def _total(data: bytearray) -> int:
    if len(data) * 8 < _HEADER_BITS:
        raise MaskError(f"the run-length code has {len(data)} bytes, too few for its header.")
    return int.from_bytes(data[:4])


def _as_bytes(rle: Sequence[int]) -> bytearray:
    if not isinstance(rle, (list, tuple, bytes, bytearray)):
        raise MaskError(f"a run-length code must be a list of bytes, not {type(rle).__name__}.")
    try:
        return bytearray(rle)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError("a run-length code must hold whole numbers from 0 to 255 only.") from error


def _decode(data: bytearray, total: int, value_bits: int, sizes: list[int]) -> tuple[NDArray[np.uint8], int]:
    """The alphas of a code whose header was checked, and how many values it holds, at most `total`."""
    positions, lengths = _codes(data, total, value_bits, sizes)
    ends = np.minimum(np.cumsum(lengths), total)
    used = min(int(np.searchsorted(ends, total)) + 1, ends.size)
    values = _field(data, positions[:used], value_bits).astype(np.uint8)
    # Pixel p shows the value whose run covers stream index 4 p + 3, its alpha.
    alphas = np.repeat(values, np.diff(ends[:used] // _CHANNELS, prepend=0))
    return alphas, int(ends[used - 1]) if used else 0


def _codes(
    data: bytearray, total: int, value_bits: int, sizes: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bit position of each value, and how often it stands; a literal is a value that stands once.

    The length of every code that could begin at any bit is computed first (a table of bytes), so that following
    the chain costs one lookup a code.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    end = bits.size
    padded = np.concatenate((bits, np.zeros(2, np.uint8)))
    prefix = (padded[:-2] << 2) | (padded[1:-1] << 1) | padded[2:]
    table = np.array([0] * 4 + [3 + size + value_bits for size in sizes], np.uint8)
    strides = table[prefix].tobytes()
    found = array("q")
    at = _HEADER_BITS
    while at < end and len(found) < total:
        stride = strides[at]
        if stride:
            found.append(at)
            at += stride
            continue
        size = sizes[prefix[at] & 3]
        count = 1 + _bits_at(data, at + 3, size)
        value_at = at + 3 + size
        at = value_at + min(count, total - len(found)) * value_bits
        # Below zero: the position of a literal value.
        found.extend(range(~value_at, ~min(at, end), -value_bits))
    starts = np.frombuffer(found, np.int64) if found else np.empty(0, np.int64)
    literal = starts < 0
    position = np.where(literal, ~starts, starts)
    which = prefix[position] & 3
    size_bits = np.where(literal, 0, np.array(sizes)[which])
    values_at = np.where(literal, position, position + 3 + size_bits)
    whole = values_at + value_bits <= end
    lengths = np.ones(position.size, np.int64)
    for size in set(sizes):
        mine = size_bits == size
        lengths[mine] = _field(data, position[mine] + 3, size) + 1
    return values_at[whole], lengths[whole]


def _bits_at(data: bytearray, position: int, width: int) -> int:
    """The number of `width` (at most 16) bits at a bit position; bits beyond the end are 0."""
    window = int.from_bytes(data[position >> 3 : (position >> 3) + 3].ljust(3, b"\0"))
    return (window >> (24 - width - (position & 7))) & ((1 << width) - 1)


def _field(data: bytearray, positions: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """The numbers of `width` (at most 16) bits at many bit positions; bits beyond the end are 0."""
    stream = np.frombuffer(data + bytes(5), np.uint8)
    byte = np.minimum(positions >> 3, len(data))
    window = (stream[byte].astype(np.int64) << 16) | (stream[byte + 1].astype(np.int64) << 8) | stream[byte + 2]
    numbers: NDArray[np.int64] = (window >> (24 - width - (positions & 7))) & ((1 << width) - 1)
    return numbers
