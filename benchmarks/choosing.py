"""What the commands check alike: names of rivals, numbers and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

from electra_ref.errors import UserError

ALL = "all"  # in place of names


class Named(Protocol):
    """A rival, as far as it is chosen by name."""

    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=Named)


def chosen(
    rivals: Sequence[R],
    names: list[str] | None,
    why_not: Callable[[R], str | None],
    by_default: Callable[[R], bool],
) -> list[R]:
    """Return the ``rivals`` with these names.

    None means those that are timed ``by_default`` and can run here, ["all"] all that can run here;
    ``why_not`` returns why one cannot. Raises UserError for a name that is unknown or given twice,
    and for a rival that cannot run here.
    """
    if names is None or names == [ALL]:
        able = [rival for rival in rivals if why_not(rival) is None]
        return [rival for rival in able if names is not None or by_default(rival)]
    known = {rival.name: rival for rival in rivals}
    for name in names:
        if name not in known:
            raise UserError(f"--rivals {name}: none of {', '.join(known)}; or {ALL} alone")
        if names.count(name) > 1:
            raise UserError(f"--rivals {name}: given twice")
        if (reason := why_not(known[name])) is not None:
            raise UserError(f"--rivals {name}: {reason}")
    return [known[name] for name in names]


def not_installed(packages: Iterable[str]) -> str | None:
    """Return which of the ``packages`` of the rivals are missing, in a few words, or None."""
    missing = [name for name in packages if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (extra: oracle)" if missing else None


def check_numbers(options: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raise UserError unless each option of ``least`` (or each of its numbers) is at least that."""
    for option, lowest in least.items():
        given = getattr(options, option)
        for number in given if isinstance(given, list) else [given]:
            if number < lowest:
                raise UserError(f"--{option.replace('_', '-')} {number}: at least {lowest}")


def check_settings(settings: Iterable[str], decided: Mapping[str, str]) -> None:
    """Raise UserError if one of ``settings`` is decided otherwise; ``decided`` says how."""
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in decided:
            raise UserError(f"--set {setting}: {key} follows from {decided[key]} here")


def corpus_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return the absolute paths of the files and folders ``names``. Raises UserError."""
    paths = [Path(name).resolve() for name in names]
    for path in paths:
        if not path.exists():
            raise UserError(f"--corpus {path}: no such file")
    return tuple(map(str, paths))


def seeds_of(text: str) -> list[int]:
    """Return the seeds in ``text``, separated by commas. Raises UserError."""
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: write whole numbers, separated by commas") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: a seed is given twice")
    return seeds
