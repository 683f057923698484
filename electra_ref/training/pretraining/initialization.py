"""Begins a run with the parameters of a model that was trained before.

The model decides about what its parameters mean: the sizes, what is shared, the vocabulary and how
text is normalized. These settings cannot be changed. Its objective is the default. All the rest
(schedule, batch, losses, dropout) is as in any new run. Parameters are taken by their names; those
that the model lacks, such as the generator of a discriminator that came alone, are drawn as usual.
One exception: in gdes the layer norm after the embeddings of such a discriminator begins as the
generator's, which has the tables that it was trained with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from electra_ref.backends import Backend
from electra_ref.config.model import GENERATOR_SIZES, ModelConfig
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.config.settings import Value
from electra_ref.errors import UserError
from electra_ref.model.networks import Network, Networks
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.passes import layer_norm_specs
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.saved_model import StoredModel, read_parameters

NOT_THE_MODELS = (
    *("hidden_dropout", "attention_dropout"),
    *("initializer_range", "initial_attention"),
)
THE_GENERATORS = "sharing", "generator_hidden_size", "generator_layers", *GENERATOR_SIZES
NORMALIZATION = ("lowercase", "strip_accents")
DEFAULTS = ("preset", "objective", "discriminator_input")
AS_THE_DATA_SAY = ("vocab_size", 0)


def settings_of_model(stored: StoredModel, preset: str | None) -> dict[str, Value]:
    """Return the settings that the model decides about, and the defaults that it brings along.

    Rows are as long as those it was trained on, or as those of the ``preset`` that was asked for,
    if it can read such.
    """
    keys = [*decided_by(stored), *DEFAULTS]
    settings: dict[str, Value] = {key: getattr(stored.config, key) for key in keys}
    longest = stored.config.max_position_embeddings
    asked = (stored.config if preset is None else resolve_config(preset=preset)).max_length
    return {**settings, "max_length": min(asked, longest)}


def decided_by(stored: StoredModel) -> list[str]:
    """Return the keys that cannot differ from those of the model."""
    model = [field.name for field in dataclasses.fields(ModelConfig)]
    free = list(NOT_THE_MODELS)
    if stored.config.why_no_generator is not None:
        free += THE_GENERATORS
    if stored.networks.generator is None:  # nor an encoder that guesses words
        free.append("tie_word_embeddings")
    return [*(key for key in model if key not in free), *NORMALIZATION]


def require_same(stored: StoredModel, config: PretrainingConfig, path: Path) -> None:
    """Raise UserError if ``config`` differs in what the model at ``path`` decides about.

    Raises it, too, if the networks of ``config`` are none of the model's.
    """
    for key in decided_by(stored):
        theirs, asked = getattr(stored.config, key), getattr(config, key)
        if asked != theirs and (key, asked) != AS_THE_DATA_SAY:
            raise UserError(
                f"{key} = {asked!r} does not fit the model in {path}, which has {theirs!r}: leave "
                "it out"
            )
    known = {spec.name for spec in stored.objective.parameter_specs(stored.model)}
    objective = objective_of(config)
    model = objective.model_of(config, config, stored.tokenizer.special_tokens)
    names = {spec.name for spec in objective.parameter_specs(model)} & known
    if not any(".layer." in name for name in names):
        if config.detects == stored.config.detects:  # one encoder goes by another name
            raise UserError(
                f"sharing = {config.sharing!r} makes one encoder of both networks, and the model "
                f"in {path} is a discriminator alone: leave sharing out"
            )
        raise UserError(
            f"the model in {path} has no network that objective = {config.objective!r} trains, "
            f"since its own was {stored.config.objective!r}: leave objective out"
        )


def initialize(
    state: TrainingState,
    networks: Networks,
    backend: Backend,
    stored: StoredModel,
    path: Path,
    say: Callable[[str], object],
) -> None:
    """Put the parameters of the model at ``path`` into ``state``, and say what was not found.

    ``networks`` are those of ``state``. Raises UserError if the model cannot be read.
    """
    for note in stored.notes:
        say(note)
    parameters = state.parameters
    theirs = {spec.name for spec in stored.objective.parameter_specs(stored.model)}
    specs = [spec for spec in parameters.specs if spec.name in theirs]
    taken = {spec.name for spec in specs}
    copies = {
        name: source
        for name, source in _own_layer_norm(networks.discriminator).items()
        if name not in taken and source in taken
    }
    filled = taken | copies.keys()
    fresh = [spec.name for spec in parameters.specs if spec.name not in filled]
    values, step = read_parameters(stored, specs, str(parameters.vector.dtype), path)
    for name in filled:
        parameters[name][...] = backend.to_device(values[copies.get(name, name)])
    line = f"begins with {len(taken)} tensors of the model in {path} (step {step:,})"
    if fresh:
        line += f"; new are {_groups(fresh)}"
    if unused := sorted(theirs - taken):
        line += f"; not used are {_groups(unused)}"
    say(line)


def _own_layer_norm(network: Network | None) -> dict[str, str]:
    """Return the parameters of the layer norm after the embeddings of ``network``.

    Each has the one of the read-only embeddings beside it. Empty where there are none of these.
    """
    if network is None or network.read_only_embeddings is None:
        return {}
    names = [
        [spec.name for spec in layer_norm_specs(f"{prefix}.layer_norm", 0)]
        for prefix in (network.embeddings, network.read_only_embeddings)
    ]
    return dict(zip(*names, strict=True))


def _groups(names: list[str]) -> str:
    """Return how many ``names`` there are and where they belong, such as "12 of generator"."""
    counts: dict[str, int] = {}
    for name in names:
        group = name.partition(".")[0]
        counts[group] = counts.get(group, 0) + 1
    return ", ".join(f"{count} of {group}" for group, count in counts.items())
