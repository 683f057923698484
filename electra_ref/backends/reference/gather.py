"""The rows of the masked positions, and the gradient of picking them.

    y[m] = x[row[m]]
    dx[n] = sum of dy[m] over all m with row[m] = n

Unused slots all point at position 0 of their row; their loss has weight 0, so the sum adds
zeros there. Source: google-research/electra pretrain/pretrain_helpers.py (``gather_positions``).
"""

from __future__ import annotations

from typing import NamedTuple

from electra_ref.arrays import Array, get_xp, sum_rows_by_index


class GatherCache(NamedTuple):
    """Kept for the backward pass: which row each slot read, and how many rows x has."""

    rows: Array  # (B * M,)  row of x behind each slot
    height: int  # N


def gather_positions(x: Array, positions: Array) -> tuple[Array, GatherCache]:
    """Pick the rows of ``x`` (N, C) at ``positions`` (B, M), tokens counted in each row: (B M, C).

    Raises ValueError if N is not a multiple of B.
    """
    batch = positions.shape[0]
    if x.shape[0] % batch:
        raise ValueError(f"{x.shape[0]} rows cannot hold a batch of {batch}")
    length = x.shape[0] // batch
    rows = (positions + length * get_xp(x).arange(batch)[:, None]).reshape(-1)
    return x[rows], GatherCache(rows, x.shape[0])


def gather_positions_backward(dy: Array, cache: GatherCache) -> Array:
    """Return dx (N, C) for ``dy`` (B M, C)."""
    return sum_rows_by_index(dy, cache.rows, cache.height)
