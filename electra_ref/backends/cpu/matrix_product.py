"""Matrix products in float32, on numba's threads.

    out (M, N) = start + a (M, K) b (K, N)

b is copied once, block of K by block of K, into panels as wide as a register tile, so that the
tile reads it in order. Panels begin at a cache line: a vector that spans two of them takes two
loads, and the product then takes a third longer. a is read in place, or turned task by task where
it is a transpose: its rows are so far apart that few of them stay in the cache together. A task is
some strips of ``ROWS`` rows; it multiplies all of them by one panel before it reads the next. Every
number of the result is summed by one thread in the order of K: its bits depend neither on the
number of threads nor on the number of rows.

NumPy's product is not used: its BLAS has threads of its own, and two pools of threads on the same
processors wait for each other whenever one takes over from the other (see ``process``).

Memory traffic: a and b are read once, b is written once, out is read and written K / DEPTH times.
Source: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

import numba
import numpy as np

from electra_ref.arrays import Float32
from electra_ref.backends.cpu.arguments import expect, expect_matrix, is_transpose, starting_sums
from electra_ref.backends.cpu.panels import copy_columns, copy_panel, transpose_panel
from electra_ref.backends.cpu.register_tile import (
    COLUMNS,
    LANES,
    ROWS,
    aligned_empty,
    multiply_tiles,
)
from electra_ref.compilation import jit

DEPTH = 256  # rows of b that are packed at a time
MOST_STRIPS = 8  # of a task: their rows stay in the second-level cache beside a panel


def multiply(
    a: Float32,
    b: Float32,
    out: Float32,
    *,
    start: Float32 | None = None,
    column_sums: Float32 | None = None,
) -> None:
    """Write ``start`` + ``a`` (M, K) ``b`` (K, N) to ``out`` (M, N), stored by rows.

    ``a`` and ``b`` may be transposes of arrays stored by rows; anything else is copied first.
    ``start`` is a row (N,) or a matrix (M, N), such as ``out`` itself, which is then added to;
    None is zero. Where ``column_sums`` (N,) is given, the sum of the rows of ``b`` is written to
    it.

    Raises ValueError if shapes or types do not fit.
    """
    expect_matrix(out)
    (count, width), depth = out.shape, a.shape[1]
    expect((count, depth), a)
    expect((depth, width), b)
    sums_columns = column_sums is not None
    if column_sums is None:
        column_sums = np.empty(width, np.float32)
    expect((width,), column_sums)
    a_stored, a_is_transpose = _as_stored(a)
    b_stored, b_is_transpose = _as_stored(b)
    sums = starting_sums(start, out.shape)
    if depth == 0 or out.size == 0:  # nothing to multiply, and numba would compile a kernel for it
        out[...], column_sums[...] = sums[0], b.sum(axis=0)
        return
    factors = a_stored, a_is_transpose, b_stored, b_is_transpose
    threads = numba.get_num_threads()
    _multiply(*factors, sums, out, column_sums[None], sums_columns, threads)


def _as_stored(matrix: Float32) -> tuple[Float32, bool]:
    """Return the array by rows behind ``matrix``, and whether ``matrix`` is its transpose."""
    transposed = is_transpose(matrix)
    stored = (matrix.T if transposed else np.ascontiguousarray(matrix)).view()
    stored.flags.writeable = False  # one kind of argument, so the kernel is compiled once
    return stored, transposed


@jit(parallel=True)
def _multiply(
    a: Float32,
    a_is_transpose: bool,
    b: Float32,
    b_is_transpose: bool,
    start: Float32,
    out: Float32,
    column_sums: Float32,
    sums_columns: bool,
    threads: int,
) -> None:
    count, width = out.shape
    first_sums = start[0]
    depth = a.shape[0] if a_is_transpose else a.shape[1]
    tasks = _number_of_tasks(count, threads)
    panels = empty_panels(min(depth, DEPTH), width)
    for first in range(0, depth, DEPTH):
        last = min(first + DEPTH, depth)
        packed = panels[:, : last - first]
        for j in numba.prange(panels.shape[0]):
            columns = slice(j * COLUMNS, (j + 1) * COLUMNS)
            if first == 0:
                column_sums[:, columns] = 0.0
            if b_is_transpose:
                transpose_panel(b[columns, first:last], packed[j])
                if sums_columns:
                    _add_rows(packed[j], column_sums[0, columns])
            elif (j + 1) * COLUMNS <= width:
                copy_panel(b[first:last, columns], packed[j], column_sums[:, columns])
            else:
                copy_columns(b[first:last, columns], packed[j])
                if sums_columns:
                    _add_rows(packed[j], column_sums[0, columns])
        for i in numba.prange(tasks):
            begin_row, end_row = _rows_of_task(i, tasks, count)
            rows = slice(begin_row, end_row)
            begin = first_sums[rows] if first == 0 else out[rows]
            if a_is_transpose:
                multiply_columns(a[first:last, rows], packed, begin, out[rows])
            else:
                multiply_rows(a[rows, first:last], packed, begin, out[rows])


@jit()
def empty_panels(depth: int, width: int) -> Float32:
    """Return room for a matrix (K, N) in panels: (N / COLUMNS rounded up, K, COLUMNS).

    It begins at a cache line.
    """
    return aligned_empty(-(-width // COLUMNS), depth, COLUMNS)


@jit()
def _add_rows(panel: Float32, sums: Float32) -> None:
    for k in range(panel.shape[0]):
        for j in range(sums.size):
            sums[j] += panel[k, j]


@jit()
def _number_of_tasks(count: int, threads: int) -> int:
    """Return into how many tasks ``count`` rows are split.

    A task has at most ``MOST_STRIPS``, and each thread has as many tasks if there are enough rows.
    """
    strips = -(-count // ROWS)
    rounds = -(-strips // (MOST_STRIPS * threads))
    return min(rounds * threads, strips)


@jit()
def _rows_of_task(task: int, tasks: int, count: int) -> tuple[int, int]:
    """Return the borders of the rows of a task: whole strips, one more or less than any other."""
    strips = -(-count // ROWS)
    first, last = strips * task // tasks, strips * (task + 1) // tasks
    return first * ROWS, min(last * ROWS, count)


@jit()
def multiply_columns(a: Float32, panels: Float32, start: Float32, out: Float32) -> None:
    """Write ``start`` + aᵀ ``panels`` to ``out`` (m, N), ``a`` (K, m)."""
    depth, count = a.shape
    rows = np.empty((count, -(-depth // LANES) * LANES), np.float32)
    transpose_panel(a, rows)
    multiply_rows(rows[:, :depth], panels, start, out)


@jit()
def multiply_rows(a: Float32, panels: Float32, start: Float32, out: Float32) -> None:
    """Write ``start`` + ``a`` (m, K) ``panels`` to ``out`` (m, N)."""
    width = out.shape[1]
    whole = width // COLUMNS
    for j in range(whole):
        columns = slice(j * COLUMNS, (j + 1) * COLUMNS)
        multiply_tiles(a, panels[j], start[:, columns], out[:, columns])
    if whole < panels.shape[0]:  # the last panel reaches beyond the edge
        columns = slice(whole * COLUMNS, width)
        tiles = np.zeros((a.shape[0], COLUMNS), np.float32)
        _copy(start[:, columns], tiles)
        multiply_tiles(a, panels[whole], tiles, tiles)
        _copy(tiles[:, : width - columns.start], out[:, columns])


@jit()
def _copy(source: Float32, target: Float32) -> None:
    """Copy ``source`` to the first rows and columns of ``target``.

    A loop takes 0.1 s to compile; numba's assignment of a slice takes 4 s, for its error message.
    """
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]
