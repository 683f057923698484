"""Tables of settings: frozen, checked, described, filled from four layers, written as flat TOML.

A table is a frozen dataclass that inherits from ``Settings``. Each of its fields is made by
``setting``, which holds all that is known of it: default, description, range or choices. A kind of
run inherits from the tables it needs; its fields are those of all of them.

The layers, each overriding the one before: the defaults, a preset, what a model to begin from
brings along, a TOML file, single ``key=value`` settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from electra_ref.errors import UserError

Value = bool | int | float | str
Presets = Mapping[str, Mapping[str, Value]]
Resumed = Literal["fixed", "free", "unread"]
LARGEST_COUNT = 2**31 - 1
OTHER_NAMES = {  # what people look for first: names of other programs, the original's among them
    "lr": "learning_rate",
    "epochs": "steps",
    "max_steps": "steps",
    "num_train_steps": "steps",
    "warmup": "warmup_steps",
    "num_warmup_steps": "warmup_steps",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "weight_decay_rate": "weight_decay",
    "max_grad_norm": "gradient_clip",
    "max_seq_length": "max_length",
    "mask_prob": "mask_probability",
    "gen_weight": "generator_weight",
    "disc_weight": "discriminator_weight",
    "do_lower_case": "lowercase",
    "dropout": "hidden_dropout",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "keep_checkpoint_max": "keep_checkpoints",
    "save_steps": "checkpoint_every",
    "eval_steps": "evaluate_every",
    "logging_steps": "log_every",
}
_NEAR = 0.75  # of 1, difflib's ratio: "learning_rat" is near "learning_rate", "colour" near nothing
_LARGEST_FLOAT = 2**1023  # about: a larger whole number has no float
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def setting(
    default: Value,
    description: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    choices: Sequence[str] = (),
    resumed: Resumed = "fixed",
) -> Any:
    """Return a field of a table: a number within its limits, or one of ``choices``.

    ``resumed`` says what may happen to it in a run that has begun: ``fixed``, it stays; ``free``,
    it may change from a step on; ``unread``, nothing depends on it any more.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    metadata = {"description": description, "resumed": resumed, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def count(default: int, description: str, *, at_least: int = 1, resumed: Resumed = "fixed") -> Any:
    """Return a field that holds a number of things."""
    return setting(default, description, at_least=at_least, at_most=LARGEST_COUNT, resumed=resumed)


def share(default: float, description: str) -> Any:
    """Return a field that holds a number from 0 to 1."""
    return setting(default, description, at_least=0.0, at_most=1.0)


class Change(NamedTuple):
    """A key whose value was another one when a run was saved."""

    key: str
    before: Value
    after: Value


@dataclasses.dataclass(frozen=True)
class Settings:
    """A table. Raises UserError if a value is out of its range or two values do not fit."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        for table in reversed(type(self).__mro__):  # the parts before what they make up
            for misfit in vars(table).get("_misfits", _none)(self):
                raise UserError(misfit)


S = TypeVar("S", bound=Settings)


def _none(_: Settings) -> Iterator[str]:
    """Return what values of a table do not fit together, if it does not say: nothing."""
    return iter(())


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise UserError if ``value`` is not among the choices or not in the range of ``field``."""
    low, above, high, choices = (
        field.metadata[key] for key in ("at_least", "above", "at_most", "choices")
    )
    if choices and value not in choices:
        raise UserError(f"{field.name} = {value!r} is none of {', '.join(choices)}")
    if not isinstance(value, str) and not (above < value and low <= value <= high):
        border = f"({above:g}" if above > low else f"[{low:g}"
        raise UserError(f"{field.name} = {value} is out of its range {border}, {high:g}]")


def resolve(
    table: type[S],
    presets: Presets,
    *,
    preset: str | None = None,
    path: Path | None = None,
    settings: Iterable[str] = (),
    base: Mapping[str, Value] = {},
) -> S:
    """Fill ``table`` from a preset, ``base``, a TOML file and ``key=value`` settings.

    Each overrides the one before. The preset is the argument, or what a setting, the file or
    ``base`` names, or the table's default. A table without a field ``preset`` has none. Raises
    UserError for an unknown key, a value of the wrong type, or a file that cannot be read.
    """
    chosen = chosen_values(table, path, settings)
    if preset is not None:
        chosen["preset"] = preset
    if not presets:
        return table(**{**base, **chosen})
    name = chosen.setdefault("preset", base.get("preset", _defaults(table)["preset"]))
    if name not in presets:
        raise UserError(f"preset = {name!r} is none of {', '.join(presets)}")
    values: dict[str, Any] = {**presets[str(name)], **base, **chosen}
    return table(**values)


def chosen_values(
    table: type[Settings], path: Path | None, settings: Iterable[str]
) -> dict[str, Value]:
    """Return what a TOML file and ``key=value`` settings say, the latter last.

    Raises UserError as ``resolve`` does.
    """
    chosen = {} if path is None else checked_values(table, _read_toml(path), where=str(path))
    chosen.update(checked_values(table, dict(map(_parse_setting, settings)), where="--set"))
    return chosen


def unknown_key(table: type[Settings], key: str) -> str:
    """Return what to say of a ``key`` that ``table`` does not have, with the one that was meant."""
    keys = _defaults(table)
    if OTHER_NAMES.get(key) in keys:
        return f"unknown key {key!r}; set {OTHER_NAMES[key]!r}"
    near = difflib.get_close_matches(key.lower().replace("-", "_"), keys, n=1, cutoff=_NEAR)
    meant = f"the nearest one is {near[0]!r}" if near else "--print-config lists all keys"
    return f"unknown key {key!r}; {meant}"


def part_of(table: type[S], config: Settings) -> S:
    """Return the fields of ``config`` that belong to ``table``, one of those it inherits from."""
    return table(**{field.name: getattr(config, field.name) for field in dataclasses.fields(table)})


def keys_of(table: type[Settings], resumed: Resumed) -> list[str]:
    """Return the keys of ``table`` that are ``resumed``: see ``setting``."""
    return [
        field.name for field in dataclasses.fields(table) if field.metadata["resumed"] == resumed
    ]


def changes_between(then: Mapping[str, Value], now: Settings, resumed: Resumed) -> list[Change]:
    """Return the keys that are ``resumed`` and differ, with both values.

    A key that ``then`` lacks is new in this version, and had its default.
    """
    values = {**_defaults(type(now)), **then}
    return [
        Change(key, values[key], getattr(now, key))
        for key in keys_of(type(now), resumed)
        if values[key] != getattr(now, key)
    ]


def to_toml(config: Settings) -> str:
    """Return the configuration as TOML, one commented ``key = value`` a line."""
    lines = []
    for field in dataclasses.fields(config):
        value = json.dumps(getattr(config, field.name))  # these literals are TOML's as well
        lines.append(f"{field.name} = {value}".ljust(40) + f" # {field.metadata['description']}")
    return "\n".join(lines) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UserError(f"{path} is not valid TOML: {error}") from error


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise UserError(f"--set {setting}: write it as key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), text  # a bare word is a string


def _defaults(table: type[Settings]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(table)}


def checked_values(
    table: type[Settings], chosen: Mapping[str, Any], where: str
) -> dict[str, Value]:
    """Return ``chosen``, which stands in ``where``, with values of the types of ``table``.

    Raises UserError for an unknown key and for a value of another type.
    """
    defaults = _defaults(table)
    checked: dict[str, Value] = {}
    for key, value in chosen.items():
        if key not in defaults:
            raise UserError(f"{where}: {unknown_key(table, key)}")
        wanted = type(defaults[key])
        if wanted is float and type(value) is int and abs(value) < _LARGEST_FLOAT:
            value = float(value)  # noqa: PLW2901  (1 stands for 1.0)
        if type(value) is not wanted:
            raise UserError(f"{where}: {key} = {value!r} should be {_KINDS[wanted]}")
        if wanted is float and not math.isfinite(value):
            raise UserError(f"{where}: {key} = {value} is no finite number")
        checked[key] = value
    return checked
