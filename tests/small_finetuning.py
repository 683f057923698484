"""Small encoders, files for each kind of task, and the command run on them in this process.

A vocabulary of letters stands for words. In each task something has to be combined that stands in
two places, so that a head on an encoder that does not learn has little to go by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from electra_ref import finetune
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training import step
from electra_ref.training.checkpoint import load_newest_checkpoint
from electra_ref.training.records import read_records
from tests.huggingface_folders import write_run

SIZES: dict[str, Any] = {
    "preset": "custom", "vocab_size": 31, "embedding_size": 16, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "max_length": 40, "generator_hidden_size": 0.5,
}  # fmt: skip
SMALLEST: dict[str, Any] = {
    "embedding_size": 6, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 12,
}  # fmt: skip
FILLERS = list("abcdefgh")
SPAN_WORDS = 3  # of a context


def write_encoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a pre-training run with random parameters; return its path."""
    return write_run(folder, PretrainingConfig(**{**SIZES, **changes}), seed)


def examples(kind: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield ``count`` examples of a ``kind`` of task, as the objects of its files."""
    random = np.random.default_rng(seed)
    for number in range(count):
        yield _MAKERS[kind](random, number)


def _tagging(random: np.random.Generator, number: int) -> dict[str, Any]:
    """The tag says whether a word and the first word are of the same half of the letters."""
    del number
    words = random.choice(FILLERS, int(random.integers(3, 9))).tolist()
    first = words[0] < "e"
    return {"words": words, "tags": ["ABCD"[2 * first + (word < "e")] for word in words]}


def _classification(random: np.random.Generator, number: int) -> dict[str, Any]:
    """The label says which of x and y comes first; the first word is one of them."""
    first, other = random.permutation(["x", "y"]).tolist()
    words = [*random.choice(FILLERS, int(random.integers(1, 5))), other]
    return {
        "id": str(number),
        "text": " ".join([first, *random.permutation(words)]),
        "label": "yes" if first == "x" else "no",
    }


def _regression(random: np.random.Generator, number: int) -> dict[str, Any]:
    """The label is the number of x among six words."""
    label = int(random.integers(0, 7))
    words = random.permutation(["x"] * label + ["a"] * (6 - label))
    return {"id": str(number), "text": " ".join(words), "label": float(label)}


def _multiple_choice(random: np.random.Generator, number: int) -> dict[str, Any]:
    """The choice that goes with the question is right."""
    del number
    asked = random.choice(["x", "y"])
    right = "u" if asked == "x" else "v"
    choices = [right, "v" if right == "u" else "u"]
    label = int(random.integers(2))
    return {
        "question": f"{random.choice(FILLERS)} {asked}",
        "choices": choices[::-1] if label else choices,
        "label": label,
    }


def _span_extraction(random: np.random.Generator, number: int) -> dict[str, Any]:
    """The answer is the word of the context that the question names."""
    words = random.permutation(FILLERS[:SPAN_WORDS]).tolist()
    place = int(random.integers(SPAN_WORDS))
    return {
        "context": " ".join(words),
        "question": words[place],
        "id": str(number),
        "answer": {"text": words[place], "answer_start": 2 * place},
    }


def _roles(random: np.random.Generator) -> str:
    """Two predicates, x and y, in any order; the first word is A0 of x and A1 of y."""
    words = random.choice(FILLERS, int(random.integers(3, 7))).tolist()
    places = sorted(random.choice(np.arange(1, len(words)), 2, replace=False).tolist())
    for place, word in zip(places, random.permutation(["x", "y"]).tolist(), strict=True):
        words[place] = word
    lines = []
    for number, word in enumerate(words):
        lines.append(f"{word} {'be' if number in places else '-'}")
        for place in places:
            role = "A0" if words[place] == "x" else "A1"
            lines[-1] += {0: f" ({role}*)", place: " (V*)"}.get(number, " *")
    return "\n".join([*lines, "\n"])


_MAKERS: Mapping[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "tagging": _tagging,
    "classification": _classification,
    "regression": _regression,
    "multiple-choice": _multiple_choice,
    "span-extraction": _span_extraction,
}


def write_examples(path: Path, kind: str, count: int, seed: int) -> Path:
    """Write ``count`` examples of a ``kind`` of task; return ``path``, whose ending fits."""
    found = list(examples(kind, count, seed))
    if kind == "span-extraction":
        path = path.with_suffix(".json")
        paragraphs = [
            {
                "context": one["context"],
                "qas": [{"id": one["id"], "question": one["question"], "answers": [one["answer"]]}],
            }
            for one in found
        ]
        text = json.dumps({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]})
    else:
        path = path.with_suffix(".jsonl")
        text = "".join(json.dumps(one) + "\n" for one in found)
    path.write_text(text)
    return path


def write_roles(path: Path, count: int, seed: int) -> Path:
    """Write ``count`` sentences with semantic roles; return ``path``, whose ending fits."""
    path, random = path.with_suffix(".props"), np.random.default_rng(seed)
    path.write_text("".join(_roles(random) for _ in range(count)))
    return path


def settings_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return ``settings`` as arguments of a command."""
    return [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]


def write_files(folder: Path, kind: str, train: int = 12) -> Path:
    """Write the smallest encoder, ``train`` examples to learn from and six others."""
    write_encoder(folder / "model", **SMALLEST)
    write_examples(folder / "train", kind, train, 0)
    write_examples(folder / "dev", kind, 6, 1)
    return folder


def run_finetune(model: Path, kind: str, train: Path, dev: Path, output: Path, *flags: str,
                 **settings: Any) -> int:  # fmt: skip
    """Run the command in this process; return its exit code."""
    own = {"device": "reference", "precision": "float64", **settings}
    paths = ["--train", str(train), "--dev", str(dev), "--output-dir", str(output)]
    return finetune.main(
        ["--model", str(model), "--task", kind, *paths, *settings_flags(own), *flags]
    )


def held_out(run: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run."""
    return [r for r in read_records(run / "metrics.jsonl") if r["split"] == "held_out"]


def tensors_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all tensors of the newest checkpoint in ``folder``, by their names."""
    checkpoint = load_newest_checkpoint(folder, warn=print)
    return {
        f"{group}/{name}": tensor.tobytes()
        for group, entries in checkpoint.groups.items()
        for name, tensor in entries.items()
    }


class KilledError(BaseException):
    """Ends a run as a signal would that cannot be caught: nothing is saved."""


def killed() -> None:
    """Raise KilledError."""
    raise KilledError


def ends_at(number: int, how: Callable[[], None], seed: int = 0) -> Callable[..., Any]:
    """Return a ``train_step`` that calls ``how`` first when ``number`` steps of a run are done."""

    def train_step(config: Any, *others: Any) -> Any:
        if config.seed == seed and others[3].step == number:
            how()
        return step.train_step(config, *others)

    return train_step
