"""What describes a pre-training run, and its presets.

The values of the presets are those of google-research/electra configure_pretraining.py (small is
its default; base and large are given in a comment there) and of Clark et al. 2020,
arXiv:2003.10555, table 6.

``tiny`` is ours, for a few minutes on two cores. Its generator is a sixteenth as wide as its
discriminator: in so short a time a wider one learns as fast as the discriminator, whose task then
stays out of reach (a quarter of the width left its AUC below 0.6). Sampling at a temperature of 1.3
makes the task easier still (0.75 in place of 0.70), and Adam's epsilon is below the original's
1e-6, which is large beside these gradients and slowed the discriminator down. (These three figures
are of attention that begins at random, as in the original. At the neighbours the AUC is 0.88.)

``laptop`` is the same for a text of one's own, a layer deeper, and longer. What else was tried is
in benchmarks/README.md, "The search for a recipe".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from electra_ref.config.model import (
    GENERATOR_SIZES,
    ModelConfig,
    begins_at_neighbours,
    discriminator_size,
    generator_size,
    misfits_of_heads,
)
from electra_ref.config.normalization import NormalizationConfig
from electra_ref.config.objective import ObjectiveConfig, needs_generator, needs_steps
from electra_ref.config.settings import (
    Settings,
    Value,
    chosen_values,
    count,
    part_of,
    resolve,
    setting,
    share,
)
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError

SHORTEST_ROW = 8  # tokens, [CLS] and [SEP] included
OF_GENERATOR = "generator_hidden_size", "generator_layers", "temperature", "temperature_end"
OF_SENTENCES = "single_segment_probability", "short_probability"


@dataclasses.dataclass(frozen=True)
class DataConfig(NormalizationConfig):
    """How text becomes rows of token ids."""

    max_vocab_size: int = count(
        30522, "WordPieces at most; a small corpus yields fewer", at_least=6, resumed="unread"
    )
    max_length: int = count(128, "tokens a row, [CLS] and [SEP] included", at_least=SHORTEST_ROW)
    single_segment_probability: float = share(0.1, "share of the rows with one segment only")
    short_probability: float = share(
        0.05, "share of the rows that end early, after a random length"
    )
    held_out_fraction: float = setting(
        0.05, "share of the tokens kept for evaluation", above=0.0, at_most=0.5
    )


@dataclasses.dataclass(frozen=True)
class PresetName(Settings):
    """Which of the presets the other values come from."""

    preset: str = setting(
        "tiny",
        "named set of sizes: tiny, laptop, small, base or large; custom: a model of no preset",
        resumed="unread",
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Settings):
    """How much of the held-out rows is read."""

    evaluation_batches: int = count(100, "batches an evaluation reads at most", resumed="free")


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(
    EvaluationConfig, TrainingConfig, DataConfig, ObjectiveConfig, ModelConfig, PresetName
):
    """One run: the fields of all these tables."""

    @property
    def row_length(self) -> int:
        """Tokens of a row of the data; the discriminator reads two of them in one, if paired."""
        return (self.max_length + 1) // 2 if self.reads_pairs else self.max_length

    def _misfits(self) -> Iterator[str]:
        if self.max_length > self.max_position_embeddings:
            yield (
                f"max_length = {self.max_length} exceeds max_position_embeddings = "
                f"{self.max_position_embeddings}"
            )
        if self.row_length < SHORTEST_ROW:
            yield (
                f"max_length = {self.max_length} leaves {self.row_length} tokens for each half of "
                f"a pair; discriminator_input = 'paired' needs max_length = {2 * SHORTEST_ROW - 1} "
                "or more"
            )
        yield from _misfits_of_sharing(self)
        yield from _misfits_of_generator(self)
        yield from _misfits_of_stages(self)


def _misfits_of_sharing(config: PretrainingConfig) -> Iterator[str]:
    if config.sharing == "embeddings":
        return
    if (why := config.why_no_generator) is not None:
        yield f"{why} has one network only, which shares nothing: leave sharing at 'embeddings'"
    if config.sharing == "gdes" and not config.detects:
        yield (
            f"sharing = 'gdes' gives the discriminator tables of its own, and objective = "
            f"{config.objective!r} has none: use objective = 'electra' or 'electra-15'"
        )


def _misfits_of_generator(config: PretrainingConfig) -> Iterator[str]:
    if config.why_no_generator is None:
        derived = config.generator_num_attention_heads == 0
        key = "generator_hidden_size" if derived else "generator_num_attention_heads"
        yield from misfits_of_heads("generator", generator_size(config), key)
    else:
        for key in GENERATOR_SIZES:
            if getattr(config, key):
                yield needs_generator(key, config)
    if config.detects and config.uniform_generator and not config.tie_word_embeddings:
        yield (
            "tie_word_embeddings = false needs a network that guesses words, and "
            "uniform_generator has none: leave it out"
        )


def _misfits_of_chosen(config: PretrainingConfig, keys: Iterable[str]) -> Iterator[str]:
    """Yield which of ``keys`` somebody chose and nothing reads."""
    for key in keys:
        if key == "initial_attention" and not _attends_as_chosen(config):
            yield (
                "initial_attention = 'neighbours' does nothing here: it needs embedding_size = "
                f"hidden_size = {config.hidden_size} and heads of an even width"
            )
        if key in OF_GENERATOR and config.why_no_generator is not None:
            yield needs_generator(key, config)
        for scheduled in ("temperature", "gumbel_temperature"):
            if key == f"{scheduled}_end" and getattr(config, f"{scheduled}_steps") == 0:
                yield needs_steps(scheduled, config)


def _attends_as_chosen(config: PretrainingConfig) -> bool:
    sizes = [discriminator_size(config)]
    if config.why_no_generator is None:
        sizes.append(generator_size(config))
    is_random = config.initial_attention == "random"
    return is_random or any(begins_at_neighbours(config, size) for size in sizes)


def _misfits_of_stages(config: PretrainingConfig) -> Iterator[str]:
    if not config.two_stage_steps:
        return
    if config.sharing != "none":
        yield (
            "two_stage_steps trains the discriminator beside a generator that stays as it is, so "
            "they may share nothing: set sharing = 'none'"
        )
    if generator_size(config) != discriminator_size(config):
        yield (
            "two_stage_steps starts the discriminator from the generator, so both have one size: "
            "set generator_hidden_size = 1, generator_layers = 1, generator_num_attention_heads = "
            f"{config.num_attention_heads} and generator_intermediate_size = "
            f"{config.intermediate_size}"
        )
    if config.two_stage_steps >= config.steps:
        yield (
            f"two_stage_steps = {config.two_stage_steps} leaves the discriminator none of the "
            f"{config.steps} steps"
        )


PRESETS: dict[str, dict[str, Value]] = {
    "tiny": {
        "max_vocab_size": 2048,
        "embedding_size": 128,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 128,
        "generator_hidden_size": 1 / 16,
        "generator_layers": 0.5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.08,
        "initial_attention": "neighbours",
        "temperature": 1.3,
        "steps": 1500,
        "batch_size": 64,
        "max_length": 32,
        "learning_rate": 7e-4,
        "warmup_steps": 150,
        "adam_epsilon": 1e-8,
        "log_every": 20,
        "evaluate_every": 500,
        "evaluation_batches": 16,
        "checkpoint_every": 500,
    },
    "laptop": {
        "max_vocab_size": 4096,
        "embedding_size": 128,
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": 128,
        "generator_hidden_size": 1 / 16,
        "generator_layers": 1 / 3,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.08,
        "initial_attention": "neighbours",
        "mask_probability": 0.3,
        "temperature": 1.3,
        "steps": 12_000,
        "batch_size": 32,
        "max_length": 64,
        "learning_rate": 1e-3,
        "warmup_steps": 600,
        "adam_epsilon": 1e-8,
        "log_every": 50,
        "evaluate_every": 1000,
        "evaluation_batches": 32,
        "held_out_fraction": 0.01,
    },
    "small": {},
    "base": {
        "embedding_size": 768,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "generator_hidden_size": 1 / 3,
        "steps": 766_000,
        "batch_size": 256,
        "max_length": 512,
        "learning_rate": 2e-4,
    },
    "large": {
        "embedding_size": 1024,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "mask_probability": 0.25,
        "steps": 400_000,
        "batch_size": 2048,
        "max_length": 512,
        "learning_rate": 2e-4,
    },
}


CUSTOM = "custom"  # the name of sizes that no preset has


def resolve_config(
    *,
    preset: str | None = None,
    path: Path | None = None,
    settings: Iterable[str] = (),
    base: Mapping[str, Value] = {},
) -> PretrainingConfig:
    """Build the configuration of a pre-training run: see ``settings.resolve``.

    Its ``preset`` is the name of a preset with the same model, or CUSTOM: a file or a setting may
    have changed the sizes. Raises UserError, too, if one of ``settings`` does nothing beside the
    others. Presets and files have values of all keys, and may have such.
    """
    presets, settings = {**PRESETS, CUSTOM: {}}, list(settings)
    config = resolve(
        PretrainingConfig, presets, preset=preset, path=path, settings=settings, base=base
    )
    for misfit in _misfits_of_chosen(config, chosen_values(PretrainingConfig, None, settings)):
        raise UserError(misfit)
    names = [name for name in (config.preset, *PRESETS) if _is_model_of(name, config)]
    return dataclasses.replace(config, preset=names[0] if names else CUSTOM)


def has_default_vocabulary_size(config: PretrainingConfig) -> bool:
    """Return whether the size of the vocabulary is a preset's own, not one that was asked for."""
    names = PRESETS if config.preset == CUSTOM else [config.preset]  # it began as one of them
    defaults = [PRESETS[n].get("max_vocab_size", DataConfig.max_vocab_size) for n in names]
    return config.vocab_size == 0 and config.max_vocab_size in defaults


def _is_model_of(preset: str, config: PretrainingConfig) -> bool:
    """Return whether ``config`` has the model of ``preset``; the data decide ``vocab_size``."""
    if preset == CUSTOM:
        return False
    model = part_of(ModelConfig, resolve(PretrainingConfig, PRESETS, preset=preset))
    return part_of(ModelConfig, config) == dataclasses.replace(model, vocab_size=config.vocab_size)
