"""One table of names: Hugging Face's tensors of a network, and where they lie in our parameters.

    ours                                    theirs
    <embeddings>.word_embeddings            electra.embeddings.word_embeddings
    <layers>.embeddings_project             electra.embeddings_project
    <layers>.layer.0.*                      electra.encoder.layer.0.*
    <layers>.layer.0.attention.query_key_value     ...attention.self.query, .key, .value
    <name>.head.* of the generator          generator_predictions.*, generator_lm_head.*
    <name>.head.* of the discriminator      discriminator_predictions.*
    task.* of a fine-tuned model            what TASK_CLASSES says for the kind of its head

The prefixes in <> are those of ``model.networks``. Matrices of linear layers are (inputs, outputs)
here and (outputs, inputs) there; tables are the same. A discriminator that reads the sum of two
tables (``gdes``) has one there, their sum. The table is used in both directions, and it is linear,
so gradients go through it as parameters do.
Source: transformers models/electra/modeling_electra.py, versions 4.57 and 5.24.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from electra_ref.arrays import Array
from electra_ref.model.embeddings import TABLES
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.heads.detection import detection_head_specs
from electra_ref.model.heads.table import HEADS
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.labelled import HEAD, FineTuned
from electra_ref.model.networks import Network, Networks
from electra_ref.model.parameters import FlatParameters, ParameterSpec

WORD_EMBEDDINGS = "electra.embeddings.word_embeddings.weight"
OUTPUT_EMBEDDINGS = "generator_lm_head.weight"  # not in a file where it is tied to the former
OUTPUT_BIAS = "generator_lm_head.bias"
BUFFERS = ("electra.embeddings.position_ids", "electra.embeddings.token_type_ids")  # of old files

_EMBEDDINGS = {**{table: table for table in TABLES}, "layer_norm": "LayerNorm"}
_LAYER = {
    "attention.query_key_value": "attention.self.{}",
    "attention.output": "attention.output.dense",
    "attention.layer_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "layer_norm": "output.LayerNorm",
}
_DETECTION_HEAD = {
    "dense": "discriminator_predictions.dense",
    "output": "discriminator_predictions.dense_prediction",
}
_VOCABULARY_HEAD = {
    "dense": "generator_predictions.dense",
    "layer_norm": "generator_predictions.LayerNorm",
    "output": "generator_lm_head",
    "output_embeddings": "generator_lm_head",
}
_IN_ONE = ("query", "key", "value")  # side by side in one matrix here
_TABLES = (*TABLES, "output_embeddings")  # not transposed


class TaskClass(NamedTuple):
    """The class for a kind of task head, and how it calls the tensors of the head."""

    name: str
    tensors: Mapping[str, str]  # by our names behind ``task.``
    forms: tuple[str, ...] = ("huggingface",)  # of our head that this class computes


_SEQUENCE = TaskClass(
    "ElectraForSequenceClassification",
    {"dense": "classifier.dense", "output": "classifier.out_proj"},
)
TASK_CLASSES: Mapping[str, TaskClass] = {  # by the kind of the head
    "classification": _SEQUENCE,
    "regression": _SEQUENCE,
    "tagging": TaskClass(
        "ElectraForTokenClassification", {"output": "classifier"}, ("original", "huggingface")
    ),
    "span-extraction": TaskClass("ElectraForQuestionAnswering", {"output": "qa_outputs"}),
    "multiple-choice": TaskClass(
        "ElectraForMultipleChoice", {"dense": "sequence_summary.summary", "output": "classifier"}
    ),
}


class Tensor(NamedTuple):
    """One tensor of theirs, and where its numbers are in our parameters."""

    name: str  # theirs
    shape: tuple[int, ...]  # theirs
    parameter: str  # ours
    part: int | None  # which third of our columns; None: all of them
    is_transposed: bool
    addend: str | None = None  # our parameter that is added; such a tensor can only be written

    def view(self, parameters: FlatParameters, name: str | None = None) -> Array:
        """Return our parameter in their shape; what is written to it reaches ``parameters``."""
        x = parameters[self.parameter if name is None else name]
        if self.part is not None:
            width = x.shape[-1] // len(_IN_ONE)
            x = x[..., self.part * width : (self.part + 1) * width]
        return x.T if self.is_transposed else x

    def value(self, parameters: FlatParameters) -> Array:
        """Return their tensor; it may share the memory of ``parameters``."""
        x = self.view(parameters)
        return x if self.addend is None else x + self.view(parameters, self.addend)


def discriminator_tensors(network: Network) -> list[Tensor]:
    """Return the tensors of ElectraForPreTraining, which tells what was replaced."""
    return [
        *encoder_tensors(network),
        *_head(f"{network.name}.head", detection_head_specs(network), _DETECTION_HEAD),
    ]


def generator_tensors(network: Network) -> list[Tensor]:
    """Return the tensors of ElectraForMaskedLM, which guesses words."""
    return [
        *encoder_tensors(network),
        *_head(f"{network.name}.head", vocabulary_head_specs(network), _VOCABULARY_HEAD),
    ]


def fine_tuned_tensors(model: FineTuned) -> list[Tensor]:
    """Return the tensors of the class for the head of ``model``.

    Raises KeyError if the head is in a form that the class does not compute.
    """
    names, specs = TASK_CLASSES[model.head.kind].tensors, HEADS[model.head.kind].head_specs(model)
    return [*encoder_tensors(model.encoder), *_head(HEAD, specs, names)]


def tensors_of(networks: Networks) -> Mapping[str, list[Tensor]]:
    """Return the tensors of each network that there is, by ``discriminator`` or ``generator``."""
    found = {}
    if networks.discriminator is not None:
        found["discriminator"] = discriminator_tensors(networks.discriminator)
    if networks.generator is not None:
        found["generator"] = generator_tensors(networks.generator)
    return found


def encoder_tensors(network: Network) -> Iterator[Tensor]:
    """Yield the tensors that both classes have: those of ElectraModel, behind ``electra.``."""
    for spec in encoder_specs(network):
        stem, _, kind = spec.name.rpartition(".")
        if stem.startswith(f"{network.embeddings}."):
            table = stem.removeprefix(f"{network.embeddings}.")
            base = network.read_only_embeddings if table in TABLES else None
            addend = None if base is None else f"{base}.{table}.{kind}"
            yield from _tensors(spec, f"electra.embeddings.{_EMBEDDINGS[table]}", addend)
        elif stem == f"{network.layers}.embeddings_project":
            yield from _tensors(spec, "electra.embeddings_project")
        else:
            number, _, inner = stem.removeprefix(f"{network.layers}.layer.").partition(".")
            yield from _tensors(spec, f"electra.encoder.layer.{number}.{_LAYER[inner]}")


def _head(
    prefix: str, specs: Iterable[ParameterSpec], names: Mapping[str, str]
) -> Iterator[Tensor]:
    for spec in specs:
        stem = spec.name.removeprefix(f"{prefix}.").rpartition(".")[0]
        yield from _tensors(spec, names[stem])


def _tensors(spec: ParameterSpec, name: str, addend: str | None = None) -> Iterator[Tensor]:
    """Yield the one tensor ``name``, or three, of our parameter ``spec``."""
    stem, _, kind = spec.name.rpartition(".")
    is_transposed = len(spec.shape) == 2 and stem.rpartition(".")[2] not in _TABLES
    if "{}" not in name:
        shape = spec.shape[::-1] if is_transposed else spec.shape
        yield Tensor(f"{name}.{kind}", shape, spec.name, None, is_transposed, addend)
        return
    *rows, columns = spec.shape
    for part, inner in enumerate(_IN_ONE):
        shape = columns // len(_IN_ONE), *rows
        yield Tensor(f"{name.format(inner)}.{kind}", shape, spec.name, part, is_transposed)
