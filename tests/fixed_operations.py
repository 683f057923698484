"""The operations over a vocabulary on fixed numbers, with any number of threads.

``python -m tests.fixed_operations FILE THREADS...`` writes their results to FILE.npz, for each
precision and each number of threads, under names such as ``bfloat16 2``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend
from electra_ref.gradient import GradientSum
from tests.fixed_steps import BACKENDS

ROWS, WORDS, WIDTH = 600, 700, 40  # several parts of rows, several tasks for every thread


def results(backend: Backend, threads: int | None = None) -> npt.NDArray[np.float32]:
    """Return all results and gradients side by side, with ``threads`` threads or all there are."""
    random, before = np.random.default_rng(0), numba.get_num_threads()
    logits, noise = random.standard_normal((2, ROWS, WORDS), np.float32)
    x, dx = random.standard_normal((2, ROWS, WIDTH), np.float32)
    table, bias = random.standard_normal((WORDS, WIDTH), np.float32), logits[0]
    ids, sums = random.integers(0, WORDS, ROWS), []
    for shape in (table.shape, table.shape, bias.shape):
        sums.append(GradientSum(np.empty(shape, np.float32), is_empty=True))
    numba.set_num_threads(threads or before)
    try:
        delta, cache = backend.relax_embeddings(logits, noise, 0.7, table, ids, False)
        dlogits = backend.relax_embeddings_backward(dx, cache, sums[0])
        likelihood, kept = backend.vocabulary_log_likelihood(x, table, bias, ids)
        gradient = backend.vocabulary_log_likelihood_backward(dx[:, 0], kept, *sums[1:])
    finally:
        numba.set_num_threads(before)
    arrays = delta, dlogits, likelihood, gradient, *(total.array for total in sums)
    return np.concatenate([array.reshape(-1) for array in arrays])


def main() -> None:
    """Write the results of all precisions and numbers of threads."""
    path, *threads = sys.argv[1:]
    found = {f"{n} {t}": results(b, int(t)) for n, b in BACKENDS.items() for t in threads}
    np.savez(Path(path), **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
