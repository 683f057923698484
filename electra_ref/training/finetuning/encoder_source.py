"""The encoder that fine-tuning begins with: that of a pre-trained or a fine-tuned model.

Of a model with two networks it is the discriminator; the generator is dropped. Of one that guesses
words alone (objective mlm and its kin) it is the full-size encoder. The head of a model that was
fine-tuned before is taken too, where it is for the same task with the same labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from electra_ref.backends import Backend
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.model import EncoderConfig
from electra_ref.config.normalization import NormalizationConfig
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.config.settings import Value, part_of
from electra_ref.errors import UserError
from electra_ref.model.embeddings import read_only_specs
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.heads.table import HEADS
from electra_ref.model.labelled import FineTuned
from electra_ref.model.networks import Network
from electra_ref.model.parameters import FlatParameters, ParameterSpec, parameter_table
from electra_ref.text.token_ids import names_ids
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.saved import find_fine_tuned, holds_fine_tuned
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.task import Labels
from electra_ref.training.huggingface.names import encoder_tensors
from electra_ref.training.saved_model import StoredModel, find_model, read_parameters

START = ("initializer_range", "initial_attention")  # of the random numbers a model begins with
TRAININGS = ("hidden_dropout", "attention_dropout", *START)  # what decides about training only


class EncoderSource(NamedTuple):
    """An encoder that is there, before its parameters are read."""

    path: Path
    config: PretrainingConfig | FinetuningConfig  # of the model it belongs to
    tokenizer: WordPiece
    network: Network
    stored: StoredModel | StoredTask
    notes: Sequence[str]  # what the user should know

    def settings(self) -> dict[str, Value]:
        """Return the settings that the model decides about: its sizes, how text is normalized."""
        config = self.config
        tables = part_of(EncoderConfig, config), part_of(NormalizationConfig, config)
        settings = {key: value for t in tables for key, value in dataclasses.asdict(t).items()}
        for key in TRAININGS:
            del settings[key]
        return settings

    def start(self) -> dict[str, Value]:
        """Return the settings of the random numbers that the model itself began with.

        Raises UserError for a fine-tuned model, which began with the parameters of another one.
        """
        if isinstance(self.stored, StoredTask):
            raise UserError(
                f"the model in {self.path} is fine-tuned, so it did not begin with random numbers; "
                "name the pre-trained model that it was made from: --model"
            )
        return {key: getattr(self.config, key) for key in START}


class Taken(NamedTuple):
    """What ``copy_model`` took."""

    what: str  # for people
    digest: str  # of the numbers


def find_encoder(path: Path) -> EncoderSource:
    """Return the encoder of the model at ``path``.

    Raises UserError if there is none, or if its vocabulary names no pieces of text.
    """
    source = _found_encoder(path)
    if names_ids(source.tokenizer.vocab):
        raise UserError(
            f"the model in {path} was trained on token ids, so its vocabulary names no pieces of "
            "text; choose a model that was trained on text: --model"
        )
    return source


def _found_encoder(path: Path) -> EncoderSource:
    if holds_fine_tuned(path):
        task = find_fine_tuned(path)
        network = task.model.encoder
        return EncoderSource(path, task.settings, task.tokenizer, network, task, task.notes)
    stored = find_model(path)
    found = stored.networks.discriminator or stored.networks.generator
    if found is None:
        raise UserError(f"the model in {path} has no encoder to fine-tune")
    return EncoderSource(path, stored.config, stored.tokenizer, found, stored, stored.notes)


def copy_model(
    source: EncoderSource,
    parameters: FlatParameters,
    model: FineTuned,
    labels: Labels,
    backend: Backend,
) -> Taken:
    """Put the parameters of ``source`` in the place of those of ``model``; return what was taken.

    ``labels`` are the names of its outputs. The head is taken if it is of the same kind and form
    and says the same. Raises UserError if the parameters cannot be read.
    """
    specs, old = parameter_table(_specs(source.network)), source.stored
    takes_head = isinstance(old, StoredTask) and _is_same_head(old, model, labels)
    if takes_head:
        specs = parameter_table([iter(specs), HEADS[model.head.kind].head_specs(model)])
    dtype = str(np.dtype(parameters.vector.dtype))
    values, step = read_parameters(old, specs, dtype, source.path)
    own = FlatParameters(parameters.specs, backend.to_host(parameters.vector).copy())
    theirs = {tensor.name: tensor for tensor in encoder_tensors(source.network)}
    for tensor in encoder_tensors(model.encoder):
        tensor.view(own)[...] = theirs[tensor.name].value(values)
    for spec in HEADS[model.head.kind].head_specs(model) if takes_head else ():
        own[spec.name][...] = values[spec.name]
    parameters.vector[...] = backend.to_device(own.vector)
    parts = "the encoder and the head" if takes_head else "the encoder"
    if isinstance(old, StoredTask) and not takes_head:
        parts += " and not the head, which is for another task, form or labels,"
    digest = hashlib.sha256(values.vector.tobytes()).hexdigest()
    return Taken(f"{parts} of {source.path}, step {step:,}", digest)


def _is_same_head(stored: StoredTask, model: FineTuned, labels: Labels) -> bool:
    """Return whether the heads compute the same, and mean the same by each output."""
    one, other = (
        (each.head.kind, each.head.form, list(HEADS[each.head.kind].head_specs(each)), names)
        for each, names in ((stored.model, stored.labels), (model, labels))
    )
    return one == other


def _specs(network: Network) -> Iterator[Iterator[ParameterSpec]]:
    yield encoder_specs(network)
    yield read_only_specs(network)
