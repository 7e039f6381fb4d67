"""Brush codes: bytes of the editor's own, the format read bit by bit, the SDK's decoder, and input that is none."""

from __future__ import annotations

import shutil
import sysconfig
import tracemalloc
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segloop.errors import MaskError
from segloop.masks import decode_rle, encode_class_rle, encode_rle, native

# What `encode` of the editor's own bundle (Label Studio 1.23.2, @thi.ng/rle-pack) gave for this mask, run in Node.
EDITOR_MASK = np.zeros((6, 7), np.uint8)
EDITOR_MASK[1:4, 2:6] = 255
EDITOR_MASK[5, 0] = 255
EDITOR_RLE = [
    *(0, 0, 0, 168, 57, 27, 254, 35, 0, 191, 255, 108, 2, 255, 253, 176, 11, 255, 248, 124, 2, 63, 252, 46, 0),
]
#: After the number of values: values of 8 bits, length sizes 3, 4, 8 and 16.
EDITOR_HEADER = [(7, 5), (2, 4), (3, 4), (7, 4), (15, 4)]


COMPILED = native.library() is not None


@pytest.fixture(scope="module", params=["compiled", "numpy"], autouse=True)
def _codec(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs on the compiled functions and on what stands in for them."""
    if request.param == "compiled":
        if not COMPILED:
            pytest.skip("segloop/masks/_rle.c was not compiled here")
        yield
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "library", lambda: None)
            yield


@pytest.fixture(scope="module")
def brush() -> ModuleType:
    """The SDK's codec, whose import takes seconds."""
    from label_studio_sdk.converter import brush

    return brush


def random_mask(seed: int) -> np.ndarray:
    """A small mask of few or many alphas in long or short runs."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 20, 2)
    alphas = rng.integers(0, 256, rng.integers(1, 9)).astype(np.uint8)
    runs = rng.choice(alphas, height * width).repeat(rng.integers(1, rng.integers(2, 60), height * width))
    return runs[: height * width].reshape(height, width)


seeds = st.integers(0, 2**32 - 1)


def pack(*fields: tuple[int, int]) -> list[int]:
    """Bytes of numbers, each in so many bits."""
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


# -- what is written


def test_is_the_editors_byte_for_byte() -> None:
    assert encode_rle(EDITOR_MASK) == EDITOR_RLE
    assert (decode_rle(EDITOR_RLE, 6, 7) == EDITOR_MASK).all()


@settings(deadline=None)
@given(seeds)
def test_round_trip(seed: int) -> None:
    mask = random_mask(seed)
    assert (decode_rle(encode_rle(mask), *mask.shape) == mask).all()
    assert encode_rle(mask > 0) == encode_rle(np.where(mask > 0, 255, 0).astype(np.uint8))
    assert encode_rle(np.asfortranarray(mask)) == encode_rle(mask)


@pytest.mark.parametrize("pixels", [1, 2, 4, 5, 64, 65, 2**14 - 1, 2**14, 2**14 + 1, 2**15, 2**15 + 3, 3 * 2**14])
def test_around_the_longest_run_of_each_size(pixels: int) -> None:
    mask = np.zeros((1, pixels + 3), np.uint8)
    mask[0, 1 : pixels + 1] = 255
    rle = encode_rle(mask)
    assert (decode_rle(rle, 1, pixels + 3) == mask).all()
    # A code for the pixel before, one for each 2**14 begun, one for the 2 pixels behind.
    assert len(rle) == len(pack(*run_fields([4, *[2**16] * (pixels >> 14), 4 * (pixels & 2**14 - 1), 8])))


def run_fields(lengths: list[int]) -> list[tuple[int, int]]:
    size = {3: 8, 4: 16, 8: 256, 16: 65536}
    bits = [next(bits for bits, longest in size.items() if length <= longest) for length in lengths if length]
    return [(0, 53), *((0, 3 + width + 8) for width in bits)]


@settings(deadline=None)
@given(seeds, st.sampled_from([np.uint8, np.int32, np.int64]))
def test_class_codes_are_each_masks_own(seed: int, dtype: type) -> None:
    class_map = (random_mask(seed) % 4).astype(dtype)
    wanted = [2, 1, 5, 0]
    assert encode_class_rle(class_map, wanted) == [encode_rle(class_map == value) for value in wanted]


#: As many pixels as the header can't say the values of, in one byte.
HUGE = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2**15, 2**15), (0, 0))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (np.zeros((0, 3), np.uint8), r"1 to 1073741823 pixels, not \(0, 3\)"),
        (np.zeros(3, np.uint8), r"not \(3,\)"),
        (HUGE, r"not \(32768, 32768\)"),
        (np.zeros((2, 2), np.float32), "not float32"),
    ],
)
def test_only_masks_are_encoded(mask: np.ndarray, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        encode_rle(mask)
    with pytest.raises(MaskError, match=says):
        encode_class_rle(mask, [1])


# -- what is read


def test_long_literals_and_other_sizes() -> None:
    # 2 pixels = 8 values: literals 1..5 in one chunk, then a run of three 9s. Length sizes 2, 3, 5, 7; values of 6 bits.
    header = [(8, 32), (5, 5), (1, 4), (2, 4), (4, 4), (6, 4)]
    literals = [(0, 1), (1, 2), (4, 3), *((value, 6) for value in (1, 2, 3, 4, 5))]
    rle = pack(*header, *literals, (1, 1), (0, 2), (2, 2), (9, 6))
    assert decode_rle(rle, 1, 2).tolist() == [[4, 9]]


@pytest.mark.parametrize("run", [True, False])
def test_a_code_that_runs_over_the_end_is_cut_off_there(run: bool) -> None:
    values = [(255, 8)] if run else [(255, 8)] * 201
    rle = pack((4, 32), *EDITOR_HEADER, (run, 1), (2, 2), (200, 8), *values)
    assert decode_rle(rle, 1, 1).tolist() == [[255]]
    assert decode_rle([*rle, 1, 2, 3], 1, 1).tolist() == [[255]]


def read_bit_by_bit(rle: list[int], total: int) -> list[int] | None:
    """The alphas by the format's description; None if the code ends too early."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(width: int) -> int:
        nonlocal at
        if at + width > len(bits):
            raise EOFError
        at += width
        return int(bits[at - width : at], 2)

    values: list[int] = []
    try:
        read(32)
        value_bits = read(5) + 1
        sizes = [read(4) + 1 for _ in range(4)]
        while len(values) < total:
            run = read(1)
            count = read(sizes[read(2)]) + 1
            values += (
                [read(value_bits)] * count
                if run
                else [read(value_bits) for _ in range(min(count, total - len(values)))]
            )
    except EOFError:
        return None
    return values[:total][3::4]


codes = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2**16), st.lists(st.integers(0, 255), min_size=1)),
    max_size=30,
)


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 40)),
    st.integers(1, 8),
    st.tuples(*[st.integers(1, 16)] * 4),
    codes,
    st.binary(max_size=8),
)
@example((1, 1), 8, (3, 4, 8, 16), [], b"")
def test_any_stream_is_read_as_the_format_says(
    shape: tuple[int, int],
    value_bits: int,
    sizes: tuple[int, ...],
    stream: list[tuple[bool, int, int, list[int]]],
    tail: bytes,
) -> None:
    total = shape[0] * shape[1] * 4
    fields = [(total, 32), (value_bits - 1, 5), *((size - 1, 4) for size in sizes)]
    for run, which, length, values in stream:
        count = min(length % 2 ** sizes[which], 300) + 1
        fields += [(run, 1), (which, 2), (count - 1, sizes[which])]
        held = (values * count)[: 1 if run else count]
        fields += [(value % 2**value_bits, value_bits) for value in held]
    rle = [*pack(*fields), *tail]
    expected = read_bit_by_bit(rle, total)
    if expected is None:
        with pytest.raises(MaskError, match="cut short"):
            decode_rle(rle, *shape)
    else:
        assert decode_rle(rle, *shape).ravel().tolist() == expected


@pytest.mark.parametrize("kind", [tuple, bytes, bytearray])
def test_other_kinds_of_sequence(kind: type) -> None:
    assert (decode_rle(kind(EDITOR_RLE), 6, 7) == EDITOR_MASK).all()


def test_bools_are_numbers() -> None:
    assert (decode_rle([False, False, False, *EDITOR_RLE[3:-1], False], 6, 7) == EDITOR_MASK).all()


# -- what is refused


@pytest.mark.parametrize("length", range(len(EDITOR_RLE) - 1))
def test_cut_short(length: int) -> None:
    with pytest.raises(MaskError, match="too few" if length < 7 else "cut short"):
        decode_rle(EDITOR_RLE[:length], 6, 7)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ([], "too few"),
        ("0000", "list of bytes"),
        (12, "list of bytes"),
        (None, "list of bytes"),
        ({"0": 1}, "list of bytes"),
        ([*EDITOR_RLE, 256], "0 to 255"),
        ([*EDITOR_RLE, -1], "0 to 255"),
        ([*EDITOR_RLE, 10**400], "0 to 255"),
        ([*EDITOR_RLE, 1.5], "0 to 255"),
        ([*EDITOR_RLE, 1.0], "0 to 255"),
        ([*EDITOR_RLE, float("nan")], "0 to 255"),
        ([*EDITOR_RLE, "1"], "0 to 255"),
        ([*EDITOR_RLE, None], "0 to 255"),
        ([True, False] * 40, "16777472 values"),
        ([EDITOR_RLE], "0 to 255"),
        ([*EDITOR_RLE, [0]], "0 to 255"),
        ([255] * 100, "4294967295 values"),
        ([0] * 100, "0 values"),
        ([0, 0, 0, 164, *EDITOR_RLE[4:]], "164 values"),
        ([0, 0, 0, 168, *[255] * 3, 0], "values of 32 bits"),
        ([0, 0, 0, 168, 64, *EDITOR_RLE[5:]], "values of 9 bits"),
    ],
)
def test_what_is_no_code(rle: object, says: str) -> None:
    with pytest.raises(MaskError, match=says):
        decode_rle(rle, 6, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(7, 7), (0, 7), (-6, -7), (6, -7), (2**40, 2**40)])
def test_what_is_of_another_size(height: int, width: int) -> None:
    with pytest.raises(MaskError, match=f"holds 168 values; an image of {width}x{height} "):
        decode_rle(EDITOR_RLE, height, width)


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60))
def test_noise_is_read_as_the_format_says_or_refused(tail: list[int]) -> None:
    rle = [0, 0, 0, 168, 57, 27, 254, *tail]
    expected = read_bit_by_bit(rle, 168)
    if expected is None:
        with pytest.raises(MaskError, match="cut short"):
            decode_rle(rle, 6, 7)
    else:
        assert decode_rle(rle, 6, 7).ravel().tolist() == expected


SIDE = 1024
#: Streams of 200,000 bytes for an image of SIDE x SIDE. Zeros are short literals, ones the longest runs.
HOSTILE = {
    "noise": np.random.default_rng(0).integers(0, 256, 200_000).tolist(),
    "zeros": [0] * 200_000,
    "ones": [255] * 200_000,
    "long literals": pack((0, 1), (3, 2), (2**16 - 1, 16), (0, 5)) * 66_666,
    "short runs": pack(*[(1, 1), (0, 2), (0, 3), (9, 8)] * 4) * 28_571,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_bounded_by_the_code_and_the_image(name: str) -> None:
    rle = pack((SIDE * SIDE * 4, 32), *EDITOR_HEADER, (0, 3)) + HOSTILE[name]
    bound = 2 * SIDE * SIDE + 600 * len(rle)
    assert peak_memory(rle, SIDE) < bound
    # A header that promises more than the image has is refused before the memory for it is taken.
    rle[:4] = [255] * 4
    assert peak_memory(rle, SIDE) < 8 * len(rle)


def peak_memory(rle: list[int], side: int) -> int:
    tracemalloc.start()
    try:
        decode_rle(rle, side, side)
    except MaskError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def test_compiled_where_a_compiler_is() -> None:
    """What fails here is an install from before `_rle.c`, or one that could not compile it."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    assert COMPILED, "install again (make clean install) and see why _rle.c is not compiled"


# -- the SDK


@pytest.mark.slow
@settings(deadline=None)
@given(seed=seeds)
def test_the_sdk_reads_ours_and_we_read_the_sdks(brush: ModuleType, seed: int) -> None:
    mask = random_mask(seed)
    assert (brush.decode_rle(encode_rle(mask)).reshape(*mask.shape, 4) == mask[..., None]).all()
    assert (decode_rle(brush.mask2rle(mask), *mask.shape) == mask).all()


@pytest.mark.slow
def test_the_sdks_literals(brush: ModuleType) -> None:
    rgba = np.zeros((9, 5, 4), np.uint8)
    rgba[2:5, 1:4] = (0, 255, 0, 100)
    alpha = decode_rle(brush.encode_rle(rgba.ravel()), 9, 5)
    assert (alpha == rgba[..., 3]).all()


@pytest.mark.slow
def test_the_sdk_reads_a_large_mask(brush: ModuleType) -> None:
    mask = np.zeros((700, 900), np.uint8)
    mask[100:650, 50:800] = 255
    assert (brush.decode_rle(encode_rle(mask)).reshape(700, 900, 4) == mask[..., None]).all()
