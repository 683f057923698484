"""The bfloat16 product against the float64 product of the rounded operands.

A float32 sum of K exact products has an error of at most gamma = K u / (1 - K u) times the sum of
their magnitudes, in any order, with u = 2**-24 for rounding to nearest (Higham 2002, section 3.1).
The initial value is one more term. Denormal operands and sums count as zero: random cases avoid
them, and one test is about them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.bfloat16.matrix_product import multiply, multiply_and_pack
from electra_ref.backends.cpu.bfloat16.packing import pack
from tests import bfloat16_twins
from tests.bfloat16_twins import round_to_bfloat16, unpack, widen

UNIT = 2.0**-24
ROOT = Path(__file__).parents[1]
sizes = st.integers(1, 70)
lengths = st.one_of(st.integers(0, 600), st.integers(1000, 1100))  # a block is 1024 long


def draw(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def exact(x: Float32) -> npt.NDArray[np.float64]:
    return widen(round_to_bfloat16(x)).astype(np.float64)


def assert_product(
    out: Float32, a: Float32, b: Float32, start: npt.NDArray[np.float32] | float = 0.0
) -> None:
    """Check ``out`` against start + A B within the bound above."""
    terms = a.shape[1] + 1
    gamma = terms * UNIT / (1 - terms * UNIT)
    magnitude = np.abs(exact(a)) @ np.abs(exact(b)) + np.abs(start)
    error = np.abs(out - (exact(a) @ exact(b) + start))
    # The reference errs too, in float64.
    assert np.all(error <= (gamma + terms * 2.0**-53) * magnitude)


def assert_column_sums(sums: Float32, matrix: Float32) -> None:
    """Check ``sums`` within the bound of a float32 sum of as many terms as there are rows."""
    size = np.abs(matrix).sum(axis=0, dtype=np.float64)
    error = np.abs(sums - matrix.sum(axis=0, dtype=np.float64))
    assert np.all(error <= matrix.shape[0] * UNIT * size)


def stored(matrix: Float32, transposed: bool) -> Float32:
    """Return ``matrix``, perhaps as a transposed view."""
    return np.asfortranarray(matrix) if transposed else np.ascontiguousarray(matrix)


@given(sizes, lengths, sizes, st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
@example(1, 1, 1, False, False, 0)
@example(8, 1024, 32, False, True, 0)
@example(9, 1025, 33, True, True, 0)
def test_product_of_any_layout(
    rows: int, length: int, columns: int, a_transposed: bool, b_transposed: bool, seed: int
) -> None:
    a, b = draw(seed, rows, length), draw(seed + 1, length, columns)
    start, old = draw(seed + 2, columns), draw(seed + 3, rows, columns)
    left, right = stored(a, a_transposed), stored(b, b_transposed)
    out = np.full((rows, columns), np.nan, np.float32)
    multiply(left, right, out)
    assert_product(out, a, b)
    multiply(left, right, out, start=start)
    assert_product(out, a, b, start)
    matrix = old.copy()
    multiply(left, right, out, start=matrix)
    assert_product(out, a, b, old)
    assert matrix.tobytes() == old.tobytes()
    again = old.copy()
    multiply(left, right, again, start=again)
    assert again.tobytes() == out.tobytes()


@given(sizes, lengths, sizes, st.booleans(), st.integers(0, 2**32 - 1))
@example(9, 1025, 33, False, 0)
def test_a_product_that_packs_its_left_operand(
    rows: int, length: int, columns: int, a_transposed: bool, seed: int
) -> None:
    """The same bits in out and in the panels as from two calls, and the sum of the rows."""
    a, b, start = draw(seed, rows, length), draw(seed + 1, length, columns), draw(seed, columns)
    outs = np.full((2, rows, columns), np.nan, np.float32)
    sums = np.full(length, np.nan, np.float32)
    multiply(a, b, outs[0], start=start)
    left = stored(a, a_transposed)
    packed = multiply_and_pack(left, b, outs[1], start=start, column_sums=sums)
    assert outs[0].tobytes() == outs[1].tobytes()
    assert packed.shape == a.shape
    assert packed.words.tobytes() == pack(a).words.tobytes()  # zeros beyond the matrix included
    assert_column_sums(sums, a)


def test_the_left_operand_is_packed_where_nothing_is_multiplied() -> None:
    a, sums = draw(0, 40, 70), np.full(70, np.nan, np.float32)
    packed = multiply_and_pack(
        a, np.ones((70, 0), np.float32), np.ones((40, 0), np.float32), column_sums=sums
    )
    assert packed.words.tobytes() == pack(a).words.tobytes()
    assert_column_sums(sums, a)


@pytest.mark.parametrize(
    ("rows", "length", "columns"), [(2048, 256, 192), (192, 2100, 256), (40, 96, 4100), (300, 1, 9)]
)
def test_products_that_fill_several_tasks(rows: int, length: int, columns: int) -> None:
    a, b, start = draw(0, rows, length), draw(1, length, columns), draw(2, rows, columns)
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            out = np.full((rows, columns), np.nan, np.float32)
            multiply(left, right, out)
            assert_product(out, a, b)
            multiply(left, right, out, start=start)
            assert_product(out, a, b, start)
    sums = np.full(length, np.nan, np.float32)
    packed = multiply_and_pack(a, b, out, start=start, column_sums=sums)
    assert_product(out, a, b, start)
    assert packed.words.tobytes() == pack(a).words.tobytes()
    assert_column_sums(sums, a)


@given(sizes, st.integers(1, 300), sizes, st.integers(0, 2**32 - 1))
def test_packing_before_changes_no_bit(rows: int, length: int, columns: int, seed: int) -> None:
    a, b = draw(seed, rows, length), draw(seed + 1, length, columns)
    outs = np.empty((3, rows, columns), np.float32)
    multiply(a, b, outs[0])
    multiply(a, pack(b), outs[1])
    multiply(pack(a.T), b, outs[2])
    assert outs[0].tobytes() == outs[1].tobytes() == outs[2].tobytes()


def test_parts_of_larger_arrays_are_read_and_not_written() -> None:
    a, b, out = draw(0, 40, 90), draw(1, 90, 100), draw(2, 40, 100)
    product = np.empty((20, 50), np.float32)
    multiply(a[3:23, 5:65], b[7:67, 11:61], product)
    assert_product(product, a[3:23, 5:65], b[7:67, 11:61])
    with pytest.raises(ValueError, match="expected a matrix stored by rows"):
        multiply(a[3:23, 5:65], b[7:67, 11:61], out[10:30, 20:70])


def packed_and_unpacked(numbers: Float32) -> Float32:
    """Return ``numbers`` (n,) rounded by the kernels: packed along a row and back."""
    rounded: Float32 = unpack(pack(numbers[None]))[0]
    return rounded


def test_rounding_is_to_nearest_even_around_every_bfloat16() -> None:
    """Every upper half with lower halves on, and next to, both sides of a tie."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    upper = np.arange(2**16, dtype=np.uint32)
    numbers = ((upper << 16)[:, None] | lower).reshape(-1).view(np.float32)
    up = np.where(upper & 1, [[0], [0], [0], [1], [1], [1]], [[0], [0], [0], [0], [1], [1]]).T
    expected = (upper[:, None] + up).reshape(-1)
    denormal = np.abs(numbers) < 2.0**-126
    expected[denormal] &= 0x8000  # zero keeps its sign
    nan = np.isnan(numbers)
    for rounded in (packed_and_unpacked(numbers), widen(round_to_bfloat16(numbers))):
        assert np.array_equal(rounded.view(np.uint32)[~nan] >> 16, expected[~nan])
        assert np.all(np.isnan(rounded[nan]))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_no_bfloat16_is_nearer(x: float) -> None:
    rounded = packed_and_unpacked(np.array([x], np.float32))
    bits = int(rounded.view(np.uint32)[0]) >> 16
    largest = 0x7F7F
    if bits & 0x7FFF > largest:
        assert abs(x) >= 2.0**128 - 2.0**119  # half a unit above the largest
        return
    near = [n for n in (bits - 1, bits, bits + 1) if 0 <= n & 0x7FFF <= largest and n >> 16 == 0]
    numbers = widen(np.array(near, np.uint16)).tolist()
    distances = [abs(Fraction(x) - Fraction(number)) for number in numbers]
    assert distances[near.index(bits)] == min(distances)


@given(st.integers(1, 300), sizes, st.booleans(), st.integers(0, 2**32 - 1))
@example(129, 3, True, 0)
def test_packing_keeps_the_rounded_numbers(
    length: int, columns: int, transposed: bool, seed: int
) -> None:
    matrix = draw(seed, length, columns)
    panels = pack(stored(matrix, transposed))
    assert unpack(panels).tobytes() == widen(round_to_bfloat16(matrix)).tobytes()
    assert panels.words.ctypes.data % 64 == 0
    expected = bfloat16_twins.pack(matrix)
    assert panels.words.tobytes() == expected.words.tobytes()  # zeros beyond the matrix included


@pytest.mark.parametrize("transposed", [False, True])
def test_packing_a_matrix_that_takes_all_threads(transposed: bool) -> None:
    matrix = draw(0, 700, 500)
    panels = pack(stored(matrix, transposed))
    assert unpack(panels).tobytes() == widen(round_to_bfloat16(matrix)).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_reach_their_row_and_column_only(bad: float) -> None:
    a, b = draw(0, 20, 70), draw(1, 70, 50)
    a[3, 69] = bad
    out = np.empty((20, 50), np.float32)
    multiply(a, b, out)
    rest = np.arange(20) != 3
    assert np.array_equal(out[3], bad * b[69].astype(np.float64), equal_nan=True)
    assert_product(out[rest], a[rest], b)
    a[3, 69], b[69, 7] = 0.0, bad
    multiply(a, b, out)
    assert np.isnan(out[3, 7])
    assert not np.isfinite(out[:, 7]).any()
    rest = np.arange(50) != 7
    assert_product(out[:, rest], a, b[:, rest])


def test_denormals_count_as_zero() -> None:
    """Operands and products below 2**-126 alike; NumPy's twin keeps such products."""
    small = np.full((1, 2), 2.0**-127, np.float32)
    out = np.full((1, 1), np.nan, np.float32)
    multiply(small, np.full((2, 1), 2.0**100, np.float32), out)
    assert out[0, 0] == 0.0
    multiply(np.full((1, 2), 2.0**-64, np.float32), np.full((2, 1), 2.0**-64, np.float32), out)
    assert out[0, 0] == 0.0


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="numba has one thread here")
def test_the_number_of_threads_changes_no_bit() -> None:
    x, weight, dy = draw(0, 1030, 300), draw(1, 300, 270), draw(2, 1030, 270)
    results = []
    before = numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            y, dx, dweight, dbias = (
                np.empty(shape, np.float32) for shape in ((1030, 270), (1030, 300), (300, 270), 270)
            )
            packed_x = multiply_and_pack(x, weight, y)
            packed_dy = multiply_and_pack(dy, weight.T, dx, column_sums=dbias)
            multiply(packed_x, packed_dy, dweight)
            results.append([array.tobytes() for array in (y, dx, dweight, dbias)])
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.skipif(sys.platform != "linux", reason="page protection is done as on Linux")
def test_nothing_is_read_beyond_the_operands() -> None:
    """They end where a page begins that must not be touched; in a process that may die of it."""
    code = (
        "import ctypes, mmap, numpy as np, tests\n"
        "from electra_ref.backends.cpu.bfloat16.matrix_product import multiply\n"
        "page = mmap.PAGESIZE\n"
        "pages = mmap.mmap(-1, 2 * page)\n"
        "memory = np.frombuffer(pages, np.uint8)\n"
        "end = ctypes.c_void_p(memory.ctypes.data + page)\n"
        "assert ctypes.CDLL(None).mprotect(end, page, 0) == 0\n"
        "a = memory[:page].view(np.float32)[-303:].reshape(3, 101)\n"
        "for b in (np.ones((101, 5), np.float32), a.T):\n"
        "    out = np.empty((3, b.shape[1]), np.float32)\n"
        "    multiply(a, b, out)\n"
        "    multiply(a.T, out, np.empty((101, b.shape[1]), np.float32))\n"
        "multiply(b.T, b, out)\n"
        "print(out.any(), flush=True)\n"
        "import os; os._exit(0)\n"
    )
    assert run_python(code) == "False"


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout.strip()


@given(sizes, lengths, sizes, st.integers(0, 2**32 - 1))
def test_the_twin_gives_the_same_product(rows: int, length: int, columns: int, seed: int) -> None:
    a, b, start = draw(seed, rows, length), draw(seed + 1, length, columns), draw(seed + 2, columns)
    out, sums = np.empty((rows, columns), np.float32), np.empty(length, np.float32)
    packed = bfloat16_twins.multiply_and_pack(a, b, out, start=start, column_sums=sums)
    assert_product(out, a, b, start)
    assert_column_sums(sums, a)
    assert packed.words.tobytes() == pack(a).words.tobytes()
    again = np.empty_like(out)
    for left, right in ((a, pack(b)), (pack(a.T), b)):
        bfloat16_twins.multiply(left, right, again, start=start)
        assert again.tobytes() == out.tobytes()


@pytest.mark.parametrize(
    ("a", "b", "out", "start"),
    [
        (np.zeros((2, 3), "f4"), np.zeros((4, 5), "f4"), np.zeros((2, 5), "f4"), None),
        (np.zeros((2, 3), "f4"), np.zeros((3, 5), "f4"), np.zeros((5, 2), "f4"), None),
        (np.zeros((2, 3), "f4"), np.zeros((3, 5), "f4"), np.zeros((2, 5), "f8"), None),
        (np.zeros((2, 3), "f4"), np.zeros((3, 5), "f4"), np.zeros((5, 2), "f4").T, None),
        (np.zeros((2, 3), "f8"), np.zeros((3, 5), "f4"), np.zeros((2, 5), "f4"), None),
        (np.zeros((2, 3), "f4"), np.zeros((3, 5), "i4"), np.zeros((2, 5), "f4"), None),
        (np.zeros((2, 3), "f4"), np.zeros((3, 5), "f4"), np.zeros((2, 5), "f4"), np.zeros(4, "f4")),
        (np.zeros((2, 3), "f4"), np.zeros(3, "f4"), np.zeros((2, 1), "f4"), None),
        (np.zeros(3, "f4"), np.zeros((3, 5), "f4"), np.zeros((1, 5), "f4"), None),
    ],
)
def test_what_does_not_fit_is_refused(
    a: Float32, b: Float32, out: Float32, start: Float32 | None
) -> None:
    with pytest.raises(ValueError, match=r"do not fit|expected|are float32"):
        multiply(a, b, out, start=start)
