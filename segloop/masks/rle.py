"""Label Studio's run-length code for brush masks: `@thi.ng/rle-pack` over the RGBA values of an image.

The stream: the number of values (32 bits), the bits of a value less one (5), four length sizes less one (4 bits
each); then codes. A code is a bit that says run or literals, 2 bits that choose a length size, the length less
one in that many bits, and one value (a run) or as many as the length says (literals).
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segloop.errors import MaskError

_HEADER_BITS = 32 + 5 + 4 * 4
_CHANNELS = 4
_VALUE_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_LONGEST_RUN = 1 << _LENGTH_BITS[-1]
#: The header's fields after the number of values, as one number of 21 bits.
_SIZES_FIELD = int("".join([f"{_VALUE_BITS - 1:05b}", *(f"{bits - 1:04b}" for bits in _LENGTH_BITS)]), 2)


def encode_rle(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> list[int]:
    """The run-length code of a mask, as Label Studio's editor writes it, byte for byte.

    `mask` is uint8 (H, W) of alpha values (0 and 255: the editor shows a 1 as nearly transparent), or bool,
    which counts as 0 and 255.

    Raises:
        MaskError: the mask is not two-dimensional, empty, or of another type.
    """
    if mask.ndim != 2 or mask.size == 0 or mask.dtype not in (np.uint8, np.bool_):
        raise MaskError(f"a mask must be uint8 or bool (H, W) and not empty, not {mask.dtype} {mask.shape}.")
    flat = np.ascontiguousarray(mask).view(np.uint8).ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    values = flat[starts]
    if mask.dtype == np.bool_:
        values = values * np.uint8(255)
    return _pack(np.diff(starts, append=flat.size), values)


def encode_class_rle(values: NDArray[np.uint8] | NDArray[np.int32], wanted: Sequence[int]) -> list[list[int]]:
    """The run-length codes of the masks `values == value`, one for each wanted value, from one scan.

    `values` is an integer map (H, W), such as a class map; each code is what `encode_rle` gives for that mask.
    """
    flat = np.ascontiguousarray(values).ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    ordered = flat[starts][order]
    codes = []
    for value in wanted:
        mine = order[np.searchsorted(ordered, value, "left") : np.searchsorted(ordered, value, "right")]
        bounds = np.empty(2 * mine.size + 2, np.int64)
        bounds[0], bounds[-1] = 0, flat.size
        bounds[1:-1:2], bounds[2:-1:2] = starts[mine], ends[mine]
        lengths = np.diff(bounds)
        alphas = np.zeros(lengths.size, np.uint8)
        alphas[1::2] = 255
        # Only the first and the last gap can be empty: neighbouring runs of the scan differ in value.
        codes.append(_pack(lengths[lengths > 0], alphas[lengths > 0]))
    return codes


def _pack(lengths_px: NDArray[np.int64], alphas: NDArray[np.uint8]) -> list[int]:
    """The byte stream of runs of pixels, each of whose 4 channels holds its alpha."""
    lengths = lengths_px * _CHANNELS
    total = int(lengths.sum())
    if total >= 1 << 32:
        raise MaskError(f"a mask of {total // _CHANNELS} pixels is too large for a run-length code.")
    if lengths.max() > _LONGEST_RUN:
        pieces = -(-lengths // _LONGEST_RUN)
        last = np.cumsum(pieces) - 1
        remainders = lengths - (pieces - 1) * _LONGEST_RUN
        alphas = np.repeat(alphas, pieces)
        lengths = np.full(alphas.size, _LONGEST_RUN, np.int64)
        lengths[last] = remainders
    size = np.searchsorted(1 << np.array(_LENGTH_BITS), lengths)
    length_bits = np.array(_LENGTH_BITS, np.uint64)[size]
    code = np.empty(lengths.size + 1, np.uint64)
    code[0] = _SIZES_FIELD
    code[1:] = (
        ((np.uint64(4) | size.astype(np.uint64)) << (length_bits + np.uint64(_VALUE_BITS)))
        | ((lengths - 1).astype(np.uint64) << np.uint64(_VALUE_BITS))
        | alphas
    )
    bits = np.empty(code.size, np.int64)
    bits[0] = _HEADER_BITS - 32
    bits[1:] = 3 + _VALUE_BITS + length_bits.astype(np.int64)
    ends = 32 + np.cumsum(bits)
    starts = ends - bits
    # Codes that begin in one 32-bit word share no bit, so their sum is their union; only the last spills over.
    word = starts >> 5
    shifted = code << (64 - bits - (starts & 31)).astype(np.uint64)
    first = np.concatenate(([0], np.flatnonzero(word[1:] != word[:-1]) + 1))
    words = np.zeros(int(ends[-1] >> 5) + 2, np.uint64)
    words[0] = total
    words[word[first]] = np.add.reduceat(shifted >> np.uint64(32), first)
    words[word[first] + 1] |= np.add.reduceat(shifted & np.uint64(0xFFFFFFFF), first)
    stream = words.astype(">u4").tobytes()
    return list(stream[: (int(ends[-1]) + 7) // 8])


def decode_rle(rle: Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """The alpha channel of a run-length code: uint8 (height, width).

    Every code of the format is read, whatever its sizes and literals. The memory it takes is bounded by the
    code's own length and by `height * width`: the number of values is checked before anything is unpacked.

    Raises:
        MaskError: not bytes, a header that makes no sense, a size other than height * width * 4, or cut short.
    """
    data = _as_bytes(rle)
    if len(data) * 8 < _HEADER_BITS:
        raise MaskError(f"the run-length code has {len(data)} bytes, too few for its header.")
    total = int.from_bytes(data[:4])
    if total != height * width * _CHANNELS or total == 0:
        raise MaskError(
            f"the run-length code holds {total} values; an image of {width}x{height} pixels needs "
            f"{height * width * _CHANNELS}."
        )
    fields = int.from_bytes(data[4:7])
    value_bits = (fields >> 19) + 1
    sizes = [(fields >> shift & 15) + 1 for shift in (15, 11, 7, 3)]
    if value_bits > 8:
        raise MaskError(f"the run-length code has values of {value_bits} bits; a mask's have 8.")
    positions, lengths = _codes(data, total, value_bits, sizes)
    ends = np.cumsum(lengths)
    if not ends.size or ends[-1] < total:
        raise MaskError(
            f"the run-length code is cut short: it ends after {int(ends[-1]) if ends.size else 0} of {total} values."
        )
    used = int(np.searchsorted(ends, total)) + 1
    ends[used - 1] = total
    values = _field(data, positions[:used], value_bits).astype(np.uint8)
    # Pixel p shows the value whose run covers stream index 4 p + 3, its alpha.
    pixel_ends = (ends[:used]) // _CHANNELS
    return np.repeat(values, np.diff(pixel_ends, prepend=0)).reshape(height, width)


def _as_bytes(rle: Sequence[int]) -> bytes:
    if not isinstance(rle, (list, tuple, bytes, bytearray)):
        raise MaskError(f"a run-length code must be a list of bytes, not {type(rle).__name__}.")
    try:
        return bytes(rle)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError("a run-length code must hold whole numbers from 0 to 255 only.") from error


def _codes(data: bytes, total: int, value_bits: int, sizes: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _bits_at(data: bytes, position: int, width: int) -> int:
    """The number of `width` (at most 16) bits at a bit position; bits beyond the end are 0."""
    window = int.from_bytes(data[position >> 3 : (position >> 3) + 3].ljust(3, b"\0"))
    return (window >> (24 - width - (position & 7))) & ((1 << width) - 1)


def _field(data: bytes, positions: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """The numbers of `width` (at most 16) bits at many bit positions; bits beyond the end are 0."""
    stream = np.frombuffer(data + bytes(5), np.uint8)
    byte = np.minimum(positions >> 3, len(data))
    window = (stream[byte].astype(np.int64) << 16) | (stream[byte + 1].astype(np.int64) << 8) | stream[byte + 2]
    numbers: NDArray[np.int64] = (window >> (24 - width - (positions & 7))) & ((1 << width) - 1)
    return numbers
