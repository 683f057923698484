"""The same two training steps on the CPU backend, in whatever process and on whatever threads.

``python -m tests.fixed_steps FILE SIZE THREADS...`` writes the parameters after them to FILE.npz,
under names such as ``bfloat16 2``: once for each precision and number of threads. SIZE is
``tiny``, quick enough for kernels that run as plain Python, or ``large``: several tasks for every
thread in every kernel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend, cpu
from electra_ref.backends.cpu import bfloat16
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config import Config
from electra_ref.model.electra import electra_of
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.step import train_step
from tests.tiny_electra import tiny_config

BACKENDS: dict[str, Backend] = {"cpu": cpu, "bfloat16": bfloat16}
COMMON = {"mask_probability": 0.3, "warmup_steps": 0, "learning_rate": 0.01}
SIZES: dict[str, Config] = {
    "tiny": tiny_config(**COMMON),
    "large": tiny_config(
        **COMMON,
        vocab_size=300, embedding_size=40, hidden_size=64, num_hidden_layers=1,
        num_attention_heads=4, intermediate_size=272, max_length=64, max_position_embeddings=64,
        batch_size=16,
    ),
}  # fmt: skip


def steps(size: str, name: str, threads: int | None = None) -> npt.NDArray[np.float32]:
    """Return the parameters after two steps on ``threads`` threads, or on as many as there are."""
    config, backend = SIZES[size], BACKENDS[name]
    shape = config.batch_size, config.max_length
    random = np.random.default_rng(0)
    ids = random.integers(5, config.vocab_size, shape).astype(np.int32)
    lengths = np.maximum(1, shape[1] - 5 * np.arange(shape[0]))  # no padding first, then more
    batch = Batch(ids, np.zeros(shape, np.int32), np.arange(shape[1]) < lengths[:, None])
    state, before = TrainingState(config, backend, "float32"), numba.get_num_threads()
    numba.set_num_threads(threads or before)
    try:
        for _ in range(2):
            train_step(
                config, backend, electra_of(config), state, [batch], SpecialTokens(0, 1, 2, 3, 4)
            )
    finally:
        numba.set_num_threads(before)
    return state.parameters.vector


def main() -> None:
    """Write the results of all precisions and numbers of threads; plain Python has no bfloat16."""
    path, size, *threads = sys.argv[1:]
    names = ["cpu"] if getattr(numba.config, "DISABLE_JIT") else list(BACKENDS)  # noqa: B009
    results = {
        f"{name} {number}": steps(size, name, int(number)) for name in names for number in threads
    }
    np.savez(Path(path), **results)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
