"""The same two training steps on the CPU backend, in any process and with any number of threads.

``python -m tests.fixed_steps FILE SIZE THREADS...`` writes the parameters after the two steps to
FILE.npz, for each precision and each number of threads, under names such as ``bfloat16 2``.
SIZE is ``tiny`` (fast enough for kernels that run as plain Python) or ``large`` (several tasks for
every thread in every kernel).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from electra_ref.backends import Backend, cpu
from electra_ref.backends.cpu import bfloat16
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.objectives import electra
from electra_ref.training.step import train_step
from tests.tiny_electra import tiny_config, tiny_model, tiny_state

BACKENDS: dict[str, Backend] = {"cpu": cpu, "bfloat16": bfloat16}
COMMON = {"mask_probability": 0.3, "warmup_steps": 0, "learning_rate": 0.01}
SIZES: dict[str, PretrainingConfig] = {
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
    state, before = tiny_state(config, "float32", backend), numba.get_num_threads()
    numba.set_num_threads(threads or before)
    try:
        for _ in range(2):
            train_step(config, backend, electra, tiny_model(config), state, [batch])
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
