"""Small models for prediction, and the command run on them in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics  # noqa: F401  (so that no test waits for it)

from electra_ref import predict, train
from tests.small_runs import SETTINGS, flags_of, write_corpus

SMALL = {**SETTINGS, "steps": 3, "evaluate_every": 3, "checkpoint_every": 3}


def train_small(folder: Path, *, tokens: bool = False, **changes: Any) -> Path:
    """Train a model in ``folder`` for a few steps, on text or on the ids 0 to 39; return it."""
    folder.mkdir(exist_ok=True)
    if tokens:
        ids = np.random.default_rng(0).integers(0, 40, (30, 50))
        ids[0, 0] = 39
        np.save(folder / "ids.npy", ids)
        data = ["--tokens", str(folder / "ids.npy")]
    else:
        data = ["--corpus", str(write_corpus(folder / "corpus.txt"))]
    settings = {**SMALL, **changes}
    preset = settings.pop("preset")
    assert preset == "custom"
    assert train.main([*data, "--output-dir", str(folder / "run"), *flags_of(**settings)]) == 0
    return folder / "run"


def run_predict(model: Path, task: str, *arguments: str) -> int:
    """Run the command, on the host in float64 unless ``arguments`` say otherwise.

    Return its exit code.
    """
    usual = {"--model": str(model), "--task": task, "--device": "reference",
             "--precision": "float64"}  # fmt: skip
    return predict.main([*not_given(usual, arguments), *arguments])


def not_given(usual: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """Return the flags of ``usual``, with their values, that ``arguments`` do not have."""
    return [
        part for flag, value in usual.items() if flag not in arguments for part in (flag, value)
    ]


def predicted(
    folder: Path, model: Path, task: str, lines: str | bytes, *arguments: str,
    name: str = "lines.txt",
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the answers to ``lines``, which are written to a file in ``folder``."""
    data = lines if isinstance(lines, bytes) else lines.encode()
    (folder / name).write_bytes(data)
    output = folder / "answers.jsonl"
    paths = ["--input", str(folder / name), "--output", str(output)]
    assert run_predict(model, task, *paths, *arguments) == 0
    text = output.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]
