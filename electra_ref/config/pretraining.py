"""What describes a pre-training run, and its presets.

The values of the presets are those of google-research/electra configure_pretraining.py (small is
its default; base and large are given in a comment there) and of Clark et al. 2020,
arXiv:2003.10555, table 6.

``tiny`` is ours, for a few minutes on two cores. Its generator is a sixteenth as wide as its
discriminator: in so short a time a wider one learns as fast as the discriminator, whose task then
stays out of reach (a quarter of the width left its AUC below 0.6). Sampling at a temperature of 1.3
makes the task easier still (0.75 in place of 0.70), and Adam's epsilon is below the original's
1e-6, which is large beside these gradients and slowed the discriminator down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from electra_ref.config.model import ModelConfig
from electra_ref.config.settings import (
    Settings,
    Value,
    count,
    part_of,
    resolve,
    setting,
    share,
)
from electra_ref.config.training import TrainingConfig


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """What is masked, how replacements are sampled, and how much each loss weighs."""

    mask_probability: float = setting(
        0.15, "share of the tokens that are masked", above=0.0, at_most=0.99
    )
    temperature: float = setting(1.0, "divides the generator's logits before sampling", above=0.0)
    generator_weight: float = setting(1.0, "weight of the MLM loss in the total", at_least=0.0)
    discriminator_weight: float = setting(50.0, "weight of the RTD loss in the total", at_least=0.0)
    objective: str = setting(
        "electra",
        "electra, electra-15, mlm, replace-mlm or all-tokens-mlm",
        choices=("electra", "electra-15", "mlm", "replace-mlm", "all-tokens-mlm"),
    )
    adversarial: str = setting(
        "none",
        "none, reinforce or gumbel-softmax",
        choices=("none", "reinforce", "gumbel-softmax"),
    )
    adversarial_weight: float = setting(1.0, "weight of the generator's adversarial loss")
    straight_through: bool = setting(True, "samples forward, their probabilities backward")
    temperature_end: float = setting(1.0, "temperature after temperature_steps", above=0.0)
    temperature_steps: int = count(0, "steps to temperature_end; 0: none", at_least=0)
    exploration: float = share(0.0, "share of samples that are uniform")
    disallow_correct: bool = setting(False, "never sample the original token")
    uniform_generator: bool = setting(False, "sample uniformly, without a generator")
    two_stage_steps: int = count(0, "steps that train the generator alone", at_least=0)
    discriminator_input: str = setting(
        "replaced", "replaced or paired", choices=("replaced", "paired")
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """How text becomes rows of token ids."""

    max_vocab_size: int = count(
        30522, "WordPieces at most; a small corpus yields fewer", at_least=6, resumed="unread"
    )
    lowercase: bool = setting(True, "lower-case the text")
    strip_accents: bool = setting(True, "strip the accents of text that is lower-cased")
    max_length: int = count(128, "tokens a row, [CLS] and [SEP] included", at_least=8)
    single_segment_probability: float = share(0.1, "share of the rows with one segment only")
    short_probability: float = share(0.05, "share of the rows cut at a random length")
    held_out_fraction: float = setting(
        0.05, "share of the tokens kept for evaluation", above=0.0, at_most=0.5
    )

    @property
    def strips_accents(self) -> bool:
        """Whether accents are stripped: never in cased text, as in the original's tokenization.py.

        Without accents, words of some languages are other words: Hindi, Vietnamese.
        """
        return self.lowercase and self.strip_accents


@dataclasses.dataclass(frozen=True)
class PresetName(Settings):
    """Which of the presets the other values come from."""

    preset: str = setting(
        "tiny",
        "named set of sizes: tiny, small, base or large; custom: sizes of no preset",
        resumed="unread",
    )


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(TrainingConfig, DataConfig, ObjectiveConfig, ModelConfig, PresetName):
    """One run: the fields of all these tables."""

    @property
    def row_length(self) -> int:
        """Return the tokens of a row of data."""
        paired = self.discriminator_input == "paired"
        return (self.max_length + 1) // 2 if paired else self.max_length

    def _misfits(self) -> Iterator[str]:
        if self.max_length > self.max_position_embeddings:
            yield (
                f"max_length = {self.max_length} exceeds max_position_embeddings = "
                f"{self.max_position_embeddings}"
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
    *, preset: str | None = None, path: Path | None = None, settings: Iterable[str] = ()
) -> PretrainingConfig:
    """Build the configuration of a pre-training run: see ``settings.resolve``.

    Its ``preset`` is the name of a preset with the same model, or CUSTOM: a file or a setting may
    have changed the sizes.
    """
    presets = {**PRESETS, CUSTOM: {}}
    config = resolve(PretrainingConfig, presets, preset=preset, path=path, settings=settings)
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
