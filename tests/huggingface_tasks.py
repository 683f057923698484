"""Fine-tuned models with random numbers, of every kind of task, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import to_toml
from electra_ref.model.heads.choice import ChoiceTargets
from electra_ref.model.heads.classification import LabelTargets
from electra_ref.model.heads.regression import ScoreTargets
from electra_ref.model.heads.span import SpanTargets
from electra_ref.model.heads.tagging import TagTargets
from electra_ref.model.labelled import LabelledBatch, Targets
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters, ParameterSpec
from electra_ref.model.passes import ForwardPass
from electra_ref.text.wordpiece import tokenizer_of
from electra_ref.training.checkpoint import save_checkpoint
from electra_ref.training.finetuning.learning import model_of
from electra_ref.training.finetuning.saved import LABELS
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.huggingface.exporting_fine_tuned import export_fine_tuned
from electra_ref.training.run_data import record_data
from electra_ref.training.run_directory import FINETUNING, KIND, RunDirectory
from electra_ref.training.saved_model import GROUP, read_parameters
from tests.huggingface_folders import BITS, STEP, vocabulary_of
from tests.tiny_electra import VOCAB_SIZE


class Case(NamedTuple):
    """A use of a class of theirs."""

    kind: str  # of our head
    labels: tuple[str, ...] = ()
    settings: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "two labels": Case("classification", ("bad", "good")),
    "many labels": Case("classification", tuple(f"topic {i}" for i in range(7))),
    "several labels a text": Case("classification", ("é", "b c", "3"), {"multi_label": True}),
    "a number": Case("regression"),
    "tags": Case("tagging", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
    "spans": Case("span-extraction"),
    "choices": Case("multiple-choice"),
}
SIZES: dict[str, Any] = {  # all different, so that no two axes can be confused
    "vocab_size": VOCAB_SIZE,
    "embedding_size": 5,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 11,
    "max_position_embeddings": 10,
    "max_length": 9,
}


def settings_of(name: str, **changes: Any) -> FinetuningConfig:
    """Return the settings of one of ``CASES`` on a tiny encoder, with ``changes``."""
    kind, _, own = CASES[name]
    head = {"task": kind, "head": "huggingface"}
    if kind == "span-extraction":
        changes.pop("head_dropout", None)  # its class has none
    return task_of(kind).TABLE(**{**SIZES, **head, **own, **changes})


def draw_stored(name: str, seed: int = 0, **changes: Any) -> StoredTask:
    """Return one of ``CASES`` at ``STEP`` with random numbers, none at its initial value."""
    kind, labels, _ = CASES[name]
    settings = settings_of(name, **changes)
    tokenizer = tokenizer_of(vocabulary_of(settings.vocab_size), settings)
    model = model_of(task_of(kind), settings, labels)
    drawn = draw_parameters(fine_tuning.parameter_specs(model), seed)

    def read(parameters: FlatParameters) -> int:
        for spec in parameters.specs:
            parameters[spec.name][...] = drawn[spec.name]
        return STEP

    return StoredTask(settings, labels, tokenizer, model, read)


def draw_parameters(specs: list[ParameterSpec], seed: int) -> FlatParameters:
    """Return parameters of ``specs`` that float32 holds exactly."""
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    numbers = np.random.default_rng(seed).normal(0.0, 0.3, size)
    parameters = FlatParameters(specs, (np.round(numbers * BITS) / BITS).astype("float32"))
    for spec in specs:
        if spec.initializer == "ones":
            parameters[spec.name][...] += 1.0
    return parameters


def export(stored: StoredTask, target: Path) -> Path:
    """Write ``stored`` in the Hugging Face format; return where."""
    return export_fine_tuned(stored, Path("the model"), target).path


def parameters_of(stored: StoredTask, dtype: str = "float32") -> FlatParameters:
    """Return all parameters of ``stored``."""
    specs = fine_tuning.parameter_specs(stored.model)
    return read_parameters(stored, specs, dtype, Path("the model"))[0]


def draw_rows(settings: FinetuningConfig, seed: int, rows: int = 6) -> Batch:
    """Return rows of different lengths, with all the segments that the model knows."""
    random = np.random.default_rng(seed)
    length = min(settings.max_position_embeddings, 12)
    lengths = [length, *random.integers(1, length + 1, rows - 1)]
    is_token = np.arange(length) < np.array(lengths)[:, None]
    ids = random.integers(0, settings.vocab_size, is_token.shape).astype(np.int32)
    types = random.integers(0, settings.type_vocab_size, is_token.shape).astype(np.int32)
    return Batch(ids, types, is_token)


def targets_of(kind: str, batch: Batch) -> Targets:
    """Return targets that say nothing but where answers are wanted: tags of all tokens."""
    rows, length = batch.input_ids.shape
    none = np.zeros(rows, np.int32)
    if kind == "classification":
        return LabelTargets(none, none)
    if kind == "regression":
        return ScoreTargets(none, none)
    if kind == "tagging":
        everywhere = np.tile(np.arange(length), (rows, 1))
        return TagTargets(everywhere, 0 * everywhere, 0 * everywhere)
    if kind == "span-extraction":
        return SpanTargets(none, none, none, none)
    alone = none[:, None]
    return ChoiceTargets(np.arange(rows)[:, None], alone == 0, none, none)


def our_answers(stored: StoredTask, batch: Batch, dtype: str) -> Sequence[Array]:
    """Return the logits for ``batch``: of all rows (B, K) or tokens (B T, K), or two of (B, T)."""
    run = ForwardPass(reference, parameters_of(stored, dtype), None)
    kind = stored.model.head.kind
    labelled = LabelledBatch(batch, targets_of(kind, batch))
    answers = fine_tuning.answer(run, stored.model, labelled)
    return answers if isinstance(answers, tuple) else (answers,)


def write_run(folder: Path, stored: StoredTask) -> Path:
    """Write ``stored`` as a fine-tuning run at ``STEP``; return its path."""
    facts = {KIND: FINETUNING, "task": stored.settings.task}
    groups = {GROUP: dict(parameters_of(stored).views)}
    with RunDirectory.create(folder, to_toml(stored.settings), facts) as run:
        record_data(run, stored.tokenizer.vocab, {LABELS: list(stored.labels)})
        save_checkpoint(run.checkpoints, STEP, groups, {})
    return folder
