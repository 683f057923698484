"""A corpus and settings for pre-training runs that take a moment: the tests of the wiring use them.

Initial values are large, so that the generator has something to say from the start, and there is no
warm-up, so that the first step moves the parameters.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from electra_ref.config.pretraining import OF_GENERATOR, PretrainingConfig
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.run import begin
from electra_ref.training.pretraining.source import Source
from electra_ref.training.progress import Progress
from electra_ref.training.stop_signals import StopSignals

SETTINGS: dict[str, Any] = {
    "preset": "custom",
    "max_vocab_size": 60, "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 20,
    "generator_hidden_size": 0.5, "generator_layers": 0.5, "initializer_range": 0.3,
    "max_length": 16,
    "held_out_fraction": 0.3, "steps": 20, "batch_size": 4, "accumulate": 2, "learning_rate": 0.01,
    "warmup_steps": 0, "evaluation_batches": 2, "log_every": 1, "evaluate_every": 10,
    "checkpoint_every": 10, "device": "reference", "precision": "float64",
}  # fmt: skip


def flags_of(**settings: Any) -> list[str]:
    """Return the flags that set ``settings``, those of a generator only if there is one."""
    has_none = settings.get("objective") == "mlm" or settings.get("uniform_generator")
    return [
        flag
        for key, value in settings.items()
        if not (has_none and key in OF_GENERATOR)
        for flag in ("--set", f"{key}={str(value).lower() if value in (True, False) else value}")
    ]


def small_config(**changes: Any) -> PretrainingConfig:
    """Return the settings of a small run, with ``changes``."""
    return PretrainingConfig(**{**SETTINGS, **changes})


def write_corpus(path: Path, *, seed: int = 0, documents: int = 40) -> Path:
    """Write ``documents`` of four sentences, with capitals and accents; return ``path``."""
    random = np.random.default_rng(seed)
    words = [
        "".join(random.choice(list("aeiostré"), length)) for length in random.integers(2, 7, 60)
    ]
    words += [word.capitalize() for word in words[:20]]
    text = "\n\n".join(
        "\n".join(" ".join(random.choice(words, 5)) for _ in range(4)) for _ in range(documents)
    )
    path.write_text(text + "\n", encoding="utf-8")
    return path


def begin_small(folder: Path, corpus: Path, **changes: Any) -> Trainer:
    """Begin a small run on ``corpus`` in ``folder``; it says nothing."""
    source = Source([str(corpus)], [])
    return begin(folder, small_config(**changes), source, quiet(), StopSignals())


def quiet() -> Progress:
    """Return a progress that nobody reads."""
    return Progress(io.StringIO())


def listening() -> Progress:
    """Return a progress whose lines ``said_to`` returns."""
    return Progress(io.StringIO())


def said_to(progress: Progress) -> list[str]:
    assert isinstance(progress.stream, io.StringIO)
    return progress.stream.getvalue().splitlines()
