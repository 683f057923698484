"""Every number a run depends on, in one frozen table.

A configuration is built from four layers, each overriding the one before: the defaults below, a
preset, a TOML file, single ``key=value`` settings. The values of the presets are those of
google-research/electra configure_pretraining.py (small is its default; base and large are given
in a comment there) and of Clark et al. 2020, arXiv:2003.10555, table 6.

``tiny`` is ours, for a few minutes on two cores. Its generator is a sixteenth as wide as its
discriminator: in so short a time a wider one learns as fast as the discriminator, whose task then
stays out of reach (a quarter of the width left its AUC below 0.6). Sampling at a temperature of 1.3
makes the task easier still (0.75 in place of 0.70), and Adam's epsilon is below the original's
1e-6, which is large beside these gradients and slowed the discriminator down.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from electra_ref.errors import UserError

Value = bool | int | float | str


def _setting(default: Value, description: str) -> Any:
    return dataclasses.field(default=default, metadata={"description": description})


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. Sizes are counts, rates and shares are in [0, 1], lengths are in tokens.

    Raises UserError if a value is out of its range or two values do not fit together.
    """

    preset: str = _setting("tiny", "named set of sizes: tiny, small, base or large")

    # The discriminator, and the generator as a share of it
    vocab_size: int = _setting(30522, "WordPieces at most; a small corpus yields fewer")
    embedding_size: int = _setting(128, "width of the embeddings that both networks share")
    hidden_size: int = _setting(256, "width of the discriminator")
    num_hidden_layers: int = _setting(12, "layers of the discriminator")
    num_attention_heads: int = _setting(4, "attention heads of the discriminator")
    intermediate_size: int = _setting(1024, "width of the discriminator's feed-forward layers")
    max_position_embeddings: int = _setting(512, "longest row the model can read")
    type_vocab_size: int = _setting(2, "segments that can be told apart")
    generator_hidden_size: float = _setting(0.25, "generator width, share of the discriminator's")
    generator_layers: float = _setting(1.0, "generator depth, share of the discriminator's")
    hidden_dropout: float = _setting(0.1, "dropout after embeddings and sublayers")
    attention_dropout: float = _setting(0.1, "dropout of attention probabilities")
    layer_norm_eps: float = _setting(1e-12, "added to the variance in layer norm")
    initializer_range: float = _setting(0.02, "standard deviation of the truncated normal")

    # The objective
    mask_probability: float = _setting(0.15, "share of the tokens that are masked")
    temperature: float = _setting(1.0, "divides the generator's logits before sampling")
    generator_weight: float = _setting(1.0, "weight of the MLM loss in the total")
    discriminator_weight: float = _setting(50.0, "weight of the RTD loss in the total")

    # The optimizer
    steps: int = _setting(1_000_000, "optimizer steps of the whole run")
    batch_size: int = _setting(128, "rows an optimizer step")
    accumulate: int = _setting(1, "micro-batches a step is split into; same result, less memory")
    max_length: int = _setting(128, "tokens a row, [CLS] and [SEP] included")
    learning_rate: float = _setting(5e-4, "peak of the schedule")
    warmup_steps: int = _setting(10_000, "steps of linear warm-up")
    lr_decay_power: float = _setting(1.0, "power of the decay to zero; 1 is linear")
    weight_decay: float = _setting(0.01, "decoupled decay of all but biases and layer norms")
    adam_beta1: float = _setting(0.9, "decay of Adam's first moment")
    adam_beta2: float = _setting(0.999, "decay of Adam's second moment")
    adam_epsilon: float = _setting(1e-6, "added to the root of Adam's second moment")
    gradient_clip: float = _setting(1.0, "largest norm of all gradients taken together")

    # The data
    lowercase: bool = _setting(True, "lower-case the text and strip its accents")
    held_out_fraction: float = _setting(0.05, "share of the documents kept for evaluation")
    single_segment_probability: float = _setting(0.1, "share of the rows with one segment only")
    short_probability: float = _setting(0.05, "share of the rows cut at a random length")

    # The run
    seed: int = _setting(0, "names every random number of the run")
    device: str = _setting("auto", "auto, cpu, gpu or reference")
    precision: str = _setting("auto", "auto, float32, bfloat16 or float64")
    log_every: int = _setting(100, "steps between two lines of metrics.jsonl")
    evaluate_every: int = _setting(10_000, "steps between two evaluations on held-out rows")
    evaluation_batches: int = _setting(100, "batches an evaluation reads at most")
    checkpoint_every: int = _setting(1_000, "steps between two checkpoints")
    keep_checkpoints: int = _setting(3, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        for key, (low, high, low_allowed) in _RANGES.items():
            value = getattr(self, key)
            if not (low <= value <= high) or (value == low and not low_allowed):
                bracket = "[" if low_allowed else "("
                raise UserError(f"{key} = {value} is out of its range {bracket}{low:g}, {high:g}]")
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(f"{key} = {getattr(self, key)!r} is none of {', '.join(choices)}")
        for problem, is_wrong in self._misfits():
            if is_wrong:
                raise UserError(problem)

    def _misfits(self) -> Iterable[tuple[str, bool]]:
        yield (
            f"max_length = {self.max_length} exceeds max_position_embeddings = "
            f"{self.max_position_embeddings}",
            self.max_length > self.max_position_embeddings,
        )
        yield (
            f"batch_size = {self.batch_size} is no multiple of accumulate = {self.accumulate}",
            self.batch_size % self.accumulate != 0,
        )
        for network, size, key in (
            ("discriminator", discriminator_size(self), "num_attention_heads"),
            ("generator", generator_size(self), "generator_hidden_size"),
        ):
            yield (
                f"the {network}'s {size.num_attention_heads} attention heads do not divide its "
                f"width {size.hidden_size}; change hidden_size or {key}",
                size.hidden_size % size.num_attention_heads != 0,
            )


@dataclasses.dataclass(frozen=True)
class EncoderSize:
    """Sizes of one of the two encoders."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


def discriminator_size(config: Config) -> EncoderSize:
    """Return the sizes of the discriminator, as configured."""
    return EncoderSize(
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
    )


def generator_size(config: Config) -> EncoderSize:
    """Return the sizes of the generator, derived from the discriminator's.

    Heads are 64 wide and at least one, the feed-forward layer is four times as wide as the rest:
    google-research/electra pretrain/run_pretraining.py (``get_generator_config``).
    """
    hidden_size = max(1, round(config.hidden_size * config.generator_hidden_size))
    layers = max(1, round(config.num_hidden_layers * config.generator_layers))
    return EncoderSize(hidden_size, layers, max(1, hidden_size // 64), 4 * hidden_size)


PRESETS: dict[str, dict[str, Value]] = {
    "tiny": {
        "vocab_size": 2048,
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

_CHOICES = {
    "preset": tuple(PRESETS),
    "device": ("auto", "cpu", "gpu", "reference"),
    "precision": ("auto", "float32", "bfloat16", "float64"),
}

_COUNT = (1, 2**31 - 1, True)
_SHARE = (0.0, 1.0, True)
_POSITIVE = (0.0, math.inf, False)
_RANGES: dict[str, tuple[float, float, bool]] = {
    "vocab_size": (6, 2**31 - 1, True),  # the five special tokens and one to learn
    "embedding_size": _COUNT,
    "hidden_size": _COUNT,
    "num_hidden_layers": _COUNT,
    "num_attention_heads": _COUNT,
    "intermediate_size": _COUNT,
    "max_position_embeddings": _COUNT,
    "type_vocab_size": (2, 2**31 - 1, True),
    "generator_hidden_size": (0.0, 16.0, False),
    "generator_layers": (0.0, 16.0, False),
    "hidden_dropout": (0.0, 0.999, True),
    "attention_dropout": (0.0, 0.999, True),
    "layer_norm_eps": _POSITIVE,
    "initializer_range": _POSITIVE,
    "mask_probability": (0.0, 0.99, False),
    "temperature": _POSITIVE,
    "generator_weight": (0.0, math.inf, True),
    "discriminator_weight": (0.0, math.inf, True),
    "steps": _COUNT,
    "batch_size": _COUNT,
    "accumulate": _COUNT,
    "max_length": (8, 2**31 - 1, True),
    "learning_rate": _POSITIVE,
    "warmup_steps": (0, 2**31 - 1, True),
    "lr_decay_power": (0.0, math.inf, True),
    "weight_decay": (0.0, math.inf, True),
    "adam_beta1": (0.0, 0.9999999, True),
    "adam_beta2": (0.0, 0.9999999, True),
    "adam_epsilon": _POSITIVE,
    "gradient_clip": _POSITIVE,
    "held_out_fraction": (0.0, 0.5, False),
    "single_segment_probability": _SHARE,
    "short_probability": _SHARE,
    "seed": (0, 2**63 - 1, True),
    "log_every": _COUNT,
    "evaluate_every": _COUNT,
    "evaluation_batches": _COUNT,
    "checkpoint_every": _COUNT,
    "keep_checkpoints": _COUNT,
}


def resolve_config(
    *, preset: str | None = None, path: Path | None = None, settings: Iterable[str] = ()
) -> Config:
    """Build the configuration from a preset, a TOML file and ``key=value`` settings, in that order.

    The preset is the argument, or what a setting or the file names, or ``tiny``. Raises UserError
    for an unknown key (naming the nearest one), a value of the wrong type, or a file that cannot
    be read.
    """
    chosen = {} if path is None else _checked(_read_toml(path), where=str(path))
    chosen.update(_checked(dict(map(_parse_setting, settings)), where="--set"))
    if preset is not None:
        chosen["preset"] = preset
    name = chosen.setdefault("preset", "tiny")
    if name not in PRESETS:
        raise UserError(f"preset = {name!r} is none of {', '.join(PRESETS)}")
    values: dict[str, Any] = {**PRESETS[str(name)], **chosen}
    return Config(**values)


def to_toml(config: Config) -> str:
    """Return the configuration as TOML, one commented ``key = value`` a line."""
    lines = []
    for field in dataclasses.fields(config):
        value = json.dumps(getattr(config, field.name))  # these literals are TOML's as well
        lines.append(f"{field.name} = {value}".ljust(40) + f" # {field.metadata['description']}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"--set {setting}: write it as key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text  # a bare word is a string


def _checked(chosen: Mapping[str, Any], where: str) -> dict[str, Value]:
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Config)}
    checked: dict[str, Value] = {}
    for key, value in chosen.items():
        if key not in defaults:
            nearest = difflib.get_close_matches(key, defaults, n=1, cutoff=0.0)[0]
            raise UserError(f"{where}: unknown key {key!r}; the nearest one is {nearest!r}")
        wanted = type(defaults[key])
        if wanted is float and type(value) is int:
            value = float(value)  # noqa: PLW2901  (1 stands for 1.0)
        if type(value) is not wanted:
            raise UserError(f"{where}: {key} = {value!r} is not of type {wanted.__name__}")
        if wanted is float and not math.isfinite(value):
            raise UserError(f"{where}: {key} = {value} is no finite number")
        checked[key] = value
    return checked
