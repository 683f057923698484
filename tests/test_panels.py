"""Copies into panels, and tiles of any height, are what NumPy says, and stay in their room."""

from __future__ import annotations

import numpy as np
import pytest

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.matrix_product import MOST_STRIPS, _number_of_tasks, _rows_of_task
from electra_ref.backends.cpu.panels import copy_columns, transpose_panel
from electra_ref.backends.cpu.register_tile import COLUMNS, LANES, ROWS, multiply_tiles
from electra_ref.compilation import jit

MARK = np.float32(-7.0)  # around what a kernel may write
Rows = Float32


@jit()
def _call_copy_columns(source: Rows, panel: Rows) -> None:
    copy_columns(source, panel)


@jit()
def _call_transpose_panel(source: Rows, panel: Rows) -> None:
    transpose_panel(source, panel)


@jit()
def _call_multiply_tiles(a: Rows, b: Rows, start: Rows, out: Rows) -> None:
    multiply_tiles(a, b, start, out)


def drawn(rows: int, columns: int) -> Float32:
    """Return numbers with NaN behind every row and behind the last one: nothing may read them."""
    room = np.full((rows + 1, columns + 3), np.nan, np.float32)
    room[:rows, :columns] = np.random.default_rng(rows).standard_normal((rows, columns))
    return room[:rows, :columns]


def marked(rows: int, columns: int) -> tuple[Float32, Float32]:
    """Return room that is marked, and a view into it, away from its edges."""
    room = np.full((rows + 2, columns + 2 * LANES), MARK)
    return room, room[1:-1, LANES:-LANES]


def assert_only_there(room: Float32, inner: Float32) -> None:
    """Check that nothing but ``inner`` was written."""
    inner[...] = MARK
    assert (room == MARK).all()


SIZES = [1, 2, LANES - 1, LANES, LANES + 1, COLUMNS - LANES + 3, COLUMNS]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("depth", [1, LANES - 1, LANES, 2 * LANES + 5])
def test_copies_are_the_matrix_and_zeros(count: int, depth: int) -> None:
    expected = np.zeros((depth, COLUMNS), np.float32)
    for call, source in (
        (_call_copy_columns, drawn(depth, count)),
        (_call_transpose_panel, drawn(count, depth)),
    ):
        room, panel = marked(depth, COLUMNS)
        call(source, panel)
        expected[:, :count] = source if call is _call_copy_columns else source.T
        np.testing.assert_array_equal(panel, expected)
        assert_only_there(room, panel)


@pytest.mark.parametrize("count", range(1, 2 * ROWS + 2))
def test_tiles_have_the_bits_of_their_rows_alone(count: int) -> None:
    depth = 5
    a, b, start = drawn(count, depth), drawn(depth, COLUMNS), drawn(count, COLUMNS)
    room, out = marked(count, COLUMNS)
    _call_multiply_tiles(a, b, start, out)
    exact = start.astype(float) + a.astype(float) @ b.astype(float)
    sizes = np.abs(start) + np.abs(a) @ np.abs(b)
    assert (np.abs(out - exact) <= (depth + 1) * 2.0**-24 * sizes).all()
    for row in range(count):
        alone = np.empty((1, COLUMNS), np.float32)
        _call_multiply_tiles(a[row : row + 1], b, start[row : row + 1], alone)
        np.testing.assert_array_equal(alone[0], out[row])
    assert_only_there(room, out)


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [0, 1, ROWS, ROWS + 1, 43 * ROWS - 2, 1000])
def test_tasks_are_all_rows_in_whole_strips(count: int, threads: int) -> None:
    tasks = _number_of_tasks(count, threads)
    parts = [_rows_of_task(task, tasks, count) for task in range(tasks)]
    assert [row for part in parts for row in range(*part)] == list(range(count))
    strips = [-(-(last - first) // ROWS) for first, last in parts]
    assert max(strips, default=0) - min(strips, default=0) <= 1
    assert max(strips, default=0) <= MOST_STRIPS
    assert tasks % threads == 0 or max(strips) == 1
    assert all(first % ROWS == 0 for first, _ in parts)
