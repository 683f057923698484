"""The configuration: four layers, each overriding the one before, and clear refusals."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.config.model import EncoderSize, ModelConfig, discriminator_size, generator_size
from electra_ref.config.pretraining import PRESETS, PretrainingConfig, resolve_config
from electra_ref.config.settings import (
    OTHER_NAMES,
    changes_between,
    keys_of,
    part_of,
    resolve,
    setting,
    share,
    to_toml,
)
from electra_ref.config.training import OptimizerConfig
from electra_ref.errors import UserError

KEYS = [field.name for field in dataclasses.fields(PretrainingConfig)]


def refusal(*settings: str) -> str:
    """Return the one line with which ``--set`` is refused."""
    with pytest.raises(UserError) as caught:
        resolve_config(settings=settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_presets_are_complete_and_small_is_the_default_of_the_original() -> None:
    for preset in PRESETS:
        assert resolve_config(preset=preset).preset == preset
    small = resolve_config(preset="small")
    assert small == PretrainingConfig(preset="small")
    assert (small.learning_rate, small.batch_size, small.max_length) == (5e-4, 128, 128)
    assert resolve_config() == resolve_config(preset="tiny")


def test_later_layers_override_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "base"\nsteps = 10\nbatch_size = 4\n', encoding="utf-8")
    config = resolve_config(path=path, settings=["batch_size=6", "seed = 3", "batch_size=8"])
    assert (config.preset, config.hidden_size) == ("base", 768)
    assert (config.steps, config.batch_size, config.seed) == (10, 8, 3)
    config = resolve_config(preset="large", path=path, settings=["preset=small"])
    assert (config.preset, config.hidden_size, config.steps) == ("large", 1024, 10)
    assert resolve_config(path=path, settings=["preset=small"]).hidden_size == 256


@given(
    settings=st.fixed_dictionaries(
        {},
        optional={
            "preset": st.sampled_from(sorted(PRESETS)),
            "learning_rate": st.floats(1e-300, 1e300, allow_nan=False),
            "layer_norm_eps": st.floats(5e-324, 1.0, exclude_min=False),
            "weight_decay": st.floats(0, 1e18),
            "seed": st.integers(0, 2**63 - 1),
            "steps": st.integers(1, 2**31 - 1),
            "lowercase": st.booleans(),
            "precision": st.sampled_from(["auto", "float32", "float64"]),
        },
    )
)
def test_toml_round_trip(
    settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is printed is read back as it was, from the file and from single settings."""
    lines = [
        str(value).lower() if isinstance(value, bool) else value for value in settings.values()
    ]
    config = resolve_config(settings=[f"{k}={v}" for k, v in zip(settings, lines, strict=True)])
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert resolve_config(path=path) == config
    assert to_toml(resolve_config(path=path)) == to_toml(config)
    for key, value in settings.items():
        assert key == "preset" or getattr(config, key) == value


def test_every_key_is_described_on_a_line_of_its_own() -> None:
    lines = to_toml(PretrainingConfig()).splitlines()
    assert [line.partition(" = ")[0] for line in lines] == KEYS
    assert all(len(line.partition(" # ")[2]) > 10 for line in lines)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("learning_rat", "learning_rate"), ("batchsize", "batch_size"), ("Steps", "steps")],
)
def test_an_unknown_key_names_the_nearest_one(key: str, nearest: str, tmp_path: Path) -> None:
    message = refusal(f"{key}=1")
    assert repr(key) in message
    assert repr(nearest) in message
    assert "--set" in message
    path = tmp_path / "run.toml"
    path.write_text(f"{key} = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=nearest) as caught:
        resolve_config(path=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        *((name, [repr(key)]) for name, key in OTHER_NAMES.items()),
        ("colour", ["--print-config lists all keys"]),
        ("x", ["--print-config lists all keys"]),
        ("learning-rate", ["'learning_rate'"]),
    ],
)
def test_other_names_are_understood_and_nothing_far_is_proposed(key: str, words: list[str]) -> None:
    message = refusal(f"{key}=1")
    assert all(word in message for word in [*words, f"unknown key {key!r}"])
    assert ("nearest" in message) == (key == "learning-rate")


def test_another_name_is_proposed_only_where_the_table_has_the_key() -> None:
    with pytest.raises(UserError, match="unknown key 'dropout'; --print-config"):
        resolve(Cooking, {}, settings=["dropout=1"])


@pytest.mark.parametrize("key", KEYS)
def test_every_key_refuses_a_wrong_type(key: str) -> None:
    default = getattr(PretrainingConfig(), key)
    value = "[1]" if isinstance(default, str) else "False"
    kind = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    assert f"should be {kind[type(default)]}" in refusal(f"{key}={value}")


@pytest.mark.parametrize(
    ("preset", "settings", "name"),
    [
        ("base", [], "base"),
        ("base", ["steps=10", "vocab_size=100", "batch_size=8"], "base"),  # the model stays
        ("base", ["hidden_size=384"], "custom"),
        ("tiny", ["hidden_dropout=0.1"], "custom"),
        ("small", ["preset=custom"], "small"),
        (None, ["preset=custom"], "small"),
    ],
)
def test_a_model_is_called_by_the_preset_that_it_is(
    preset: str | None, settings: list[str], name: str
) -> None:
    assert resolve_config(preset=preset, settings=settings).preset == name


def test_a_file_that_changes_the_preset_changes_the_name(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(to_toml(resolve_config(preset="tiny")), encoding="utf-8")
    assert resolve_config(preset="base", path=path) == resolve_config(preset="tiny")
    path.write_text("hidden_size = 96\n", encoding="utf-8")
    config = resolve_config(preset="base", path=path)
    assert (config.preset, config.hidden_size, config.intermediate_size) == ("custom", 96, 3072)
    path.write_text(to_toml(config), encoding="utf-8")
    assert resolve_config(path=path) == config


def test_what_may_change_in_a_run_that_has_begun() -> None:
    assert keys_of(PretrainingConfig, "free") == [
        *("steps", "learning_rate", "warmup_steps", "lr_decay_power", "device", "log_every"),
        *("evaluate_every", "checkpoint_every", "keep_checkpoints", "evaluation_batches"),
    ]
    assert keys_of(PretrainingConfig, "unread") == ["preset", "max_vocab_size"]
    assert len(keys_of(PretrainingConfig, "fixed")) == len(KEYS) - 12


def test_changes_are_named_with_both_values() -> None:
    config = resolve_config(settings=["steps=7", "batch_size=8"])
    then = dataclasses.asdict(resolve_config(settings=["log_every=5"]))
    assert changes_between(then, config, "fixed") == [("batch_size", 64, 8)]
    assert sorted(changes_between(then, config, "free")) == [
        ("log_every", 5, 20),
        ("steps", 1500, 7),
    ]
    del then["batch_size"]  # a key of a later version had its default
    assert changes_between(then, config, "fixed") == [("batch_size", 128, 8)]


@pytest.mark.parametrize(
    "setting",
    [
        "steps=1.5",
        "steps=true",
        "steps=0",
        "steps=-1",
        "learning_rate=nan",
        "learning_rate=inf",
        "learning_rate=0",
        f"learning_rate=1{'0' * 400}",
        f"steps=1{'0' * 5000}",
        "hidden_dropout=1.0",
        "mask_probability=0",
        "seed=-1",
        "seed=9223372036854775808",
        "vocab_size=-1",
        "max_vocab_size=5",
        "max_vocab_size=2147483648",
        "generator_hidden_size=1e308",
        "generator_layers=1e308",
        "device=tpu",
        "precision=float16",
        "preset=huge",
        "lowercase=1",
        "max_length=7",
        "steps",
    ],
)
def test_values_out_of_range_are_refused(setting: str) -> None:
    assert setting.partition("=")[0] in refusal(setting)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["max_length=129"], ["max_length = 129", "max_position_embeddings = 128"]),
        (["batch_size=10", "accumulate=4"], ["batch_size = 10", "accumulate = 4"]),
        (["num_attention_heads=3"], ["3 attention heads", "width 128", "num_attention_heads"]),
        (
            ["hidden_size=400", "generator_hidden_size=0.5"],
            ["generator", "3 attention heads", "width 200", "generator_hidden_size"],
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(settings: list[str], words: list[str]) -> None:
    message = refusal(*settings)
    for word in words:
        assert word in message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    for content in (b"steps = \n", b"\xff\xfe", b"[table]\nsteps = 1\n", b"steps = 1\nsteps = 2\n"):
        bad.write_bytes(content)
        with pytest.raises(UserError):
            resolve_config(path=bad)
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(UserError, match="cannot read") as caught:
            resolve_config(path=path)
        assert str(path) in str(caught.value)


@given(width=st.integers(1, 40), share=st.floats(0.01, 4.0))
def test_the_generator_is_never_empty(width: int, share: float) -> None:
    config = dataclasses.replace(PretrainingConfig(), hidden_size=8 * width, num_attention_heads=8)
    size = generator_size(dataclasses.replace(config, generator_layers=share))
    assert size.num_hidden_layers == max(1, round(12 * share))
    assert size.hidden_size == max(1, round(8 * width * 0.25))
    assert size.num_attention_heads == max(1, size.hidden_size // 64)
    assert size.intermediate_size == 4 * size.hidden_size
    assert discriminator_size(config) == EncoderSize(8 * width, 12, 8, 1024)


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(PretrainingConfig(), "steps", 3)  # noqa: B010
    assert math.isclose(PretrainingConfig().layer_norm_eps, 1e-12)


def test_a_model_is_described_apart_from_its_run() -> None:
    """Of a run's configuration, ``part_of`` takes what describes the model."""
    config = resolve_config(preset="base", settings=["vocab_size=100", "learning_rate=0.5"])
    model = part_of(ModelConfig, config)
    assert type(model) is ModelConfig
    assert not hasattr(model, "learning_rate")
    assert (model.hidden_size, model.vocab_size) == (768, 100)
    assert generator_size(model) == generator_size(config)


@dataclasses.dataclass(frozen=True)
class Cooking(OptimizerConfig):
    """A second kind of run, which has a table of its own and no presets."""

    salt: float = share(0.5, "share of the salt that goes in first")
    pot: str = setting("large", "large or small", choices=("large", "small"))

    def _misfits(self) -> Iterator[str]:
        if self.pot == "small" and self.steps > 10:
            yield f"steps = {self.steps} do not fit a small pot"


def test_one_machinery_serves_other_tables(tmp_path: Path) -> None:
    """Ranges, nearest keys, misfits of every table, TOML: what a new kind of run gets for free."""
    cooking = resolve(Cooking, {}, settings=["salt=1", "steps=5", "pot=small"])
    assert cooking == Cooking(salt=1.0, steps=5, pot="small")
    path = tmp_path / "run.toml"
    path.write_text(to_toml(cooking), encoding="utf-8")
    assert resolve(Cooking, {}, path=path) == cooking
    for setting_, message in {
        "salt=1.5": "salt = 1.5 is out of its range [0, 1]",
        "pot=tiny": "pot = 'tiny' is none of large, small",
        "pott=large": "unknown key 'pott'; the nearest one is 'pot'",
        "pot=small": "steps = 1000000 do not fit a small pot",
        "accumulate=3": "batch_size = 128 is no multiple of accumulate = 3",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            resolve(Cooking, {}, settings=[setting_])


LIMITS = {  # the least and the greatest value that are allowed, and one beyond each
    "generator_hidden_size": (1e-300, 16.0, 0.0, 16.001),
    "generator_layers": (1e-300, 16.0, 0.0, 16.001),
    "hidden_dropout": (0.0, 0.999, -1e-9, 0.9991),
    "attention_dropout": (0.0, 0.999, -1e-9, 0.9991),
    "layer_norm_eps": (5e-324, 1e300, 0.0, None),
    "initializer_range": (5e-324, 1e300, 0.0, None),
    "mask_probability": (5e-324, 0.99, 0.0, 0.991),
    "temperature": (5e-324, 1e300, 0.0, None),
    "temperature_end": (5e-324, 1e300, 0.0, None),
    "exploration": (0.0, 1.0, -1e-9, 1.001),
    "adversarial_weight": (-1e6, 1e6, -1.1e6, 1.1e6),
    "gumbel_temperature": (0.01, 1e300, 0.0099, None),
    "gumbel_temperature_end": (0.01, 1e300, 0.0099, None),
    "encoder_weight": (0.0, 1e300, -1e-9, None),
    "generator_weight": (0.0, 1e300, -1e-9, None),
    "discriminator_weight": (0.0, 1e300, -1e-9, None),
    "learning_rate": (5e-324, 1e300, 0.0, None),
    "lr_decay_power": (0.0, 1e300, -1e-9, None),
    "weight_decay": (0.0, 1e300, -1e-9, None),
    "adam_beta1": (0.0, 0.9999999, -1e-9, 0.99999991),
    "adam_beta2": (0.0, 0.9999999, -1e-9, 0.99999991),
    "adam_epsilon": (5e-324, 1e300, 0.0, None),
    "gradient_clip": (5e-324, 1e300, 0.0, None),
    "single_segment_probability": (0.0, 1.0, -1e-9, 1.001),
    "short_probability": (0.0, 1.0, -1e-9, 1.001),
    "held_out_fraction": (5e-324, 0.5, 0.0, 0.501),
}

# Without these settings the value would do nothing, and be refused.
NEEDED: dict[str, dict[str, Any]] = {
    "temperature_end": {"temperature_steps": 10},
    "adversarial_weight": {"adversarial": "reinforce"},
    "encoder_weight": {"objective": "replace-mlm"},
    "gumbel_temperature": {"adversarial": "gumbel-softmax"},
    "gumbel_temperature_end": {"adversarial": "gumbel-softmax", "gumbel_temperature_steps": 10},
}  # fmt: skip


@pytest.mark.parametrize("key", LIMITS)
def test_ranges_end_where_they_should(key: str) -> None:
    least, greatest, below, above = LIMITS[key]
    for value in (below, above):
        if value is not None:
            wrong: dict[str, Any] = {key: value}
            with pytest.raises(UserError, match=f"{key} = .* is out of its range"):
                dataclasses.replace(PretrainingConfig(), **wrong)
    for value in (least, greatest):
        fits: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 1, key: value}
        fits |= NEEDED.get(key, {})
        dataclasses.replace(PretrainingConfig(), **fits)


def test_every_number_that_is_not_whole_has_its_limits_listed() -> None:
    floats = {f.name for f in dataclasses.fields(PretrainingConfig) if isinstance(f.default, float)}
    assert floats == set(LIMITS)


def test_files_are_read_as_utf_8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encodings = Path.read_text, []

    def recorded(path: Path, encoding: str | None = None) -> str:
        encodings.append(encoding)
        return read(path, encoding)

    (tmp_path / "run.toml").write_text("steps = 3\n", encoding="utf-8-sig")
    monkeypatch.setattr(Path, "read_text", recorded)
    assert resolve_config(path=tmp_path / "run.toml").steps == 3
    assert encodings == ["utf-8-sig"]


def test_brackets_in_brackets_are_one_line(tmp_path: Path) -> None:
    deep = "[" * 100_000
    with pytest.raises(UserError, match="steps"):
        resolve_config(settings=[f"steps={deep}"])
    (tmp_path / "deep.toml").write_text(f"steps = {deep}")
    with pytest.raises(UserError, match=r"deep\.toml is not valid TOML"):
        resolve_config(path=tmp_path / "deep.toml")
