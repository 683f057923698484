"""Watch the calls that change the disk: count them, record them, let one fail, or die at one.

Only calls through ``os`` are watched. ``electra_ref.files`` and ``electra_ref.training`` make no
others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

CHANGES = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")

Hook = Callable[[str, tuple[Any, ...]], None]  # (name of the call, its arguments)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the code may touch the disk after it (see ``kill_at``)."""


@contextmanager
def watching(
    before: Hook, after: Callable[[str, tuple[Any, ...], Any], None] | None = None
) -> Iterator[None]:
    """Call ``before(name, arguments)`` before every watched call, ``after`` with its result."""

    def watch(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **keywords: Any) -> Any:
            before(name, arguments)
            result = call(*arguments, **keywords)
            if after is not None:
                after(name, arguments, result)
            return result

        return watched

    watched: dict[str, Any] = {name: watch(name, getattr(os, name)) for name in CHANGES}
    with mock.patch.multiple(os, **watched):
        yield


def counting(calls: list[str]) -> Hook:
    """Return a hook that appends the name of every call."""
    return lambda name, _: calls.append(name)


def raise_killed() -> None:
    """Raise Killed, as ``kill_at`` does by default."""
    raise Killed


def kill_at(number: int, die: Callable[[], None] = raise_killed) -> Hook:
    """Return a hook that lets ``number`` calls pass and dies at the next, with half of a write.

    If ``die`` raises, it does so at every later call as well: cleaning up in ``finally`` blocks has
    no effect on the disk, as with the real signal, yet the test goes on in the same process.
    """
    calls: list[str] = []

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if len(calls) == number and name == "write":
            descriptor, data = arguments
            os.writev(descriptor, [bytes(data[: len(data) // 2])])
        calls.append(name)
        if len(calls) > number:
            die()

    return hook


def fail_at(
    number: int, error: int, *, kinds: tuple[str, ...] = CHANGES, forever: bool = False
) -> Hook:
    """Return a hook that lets ``number`` calls of ``kinds`` pass, then fails one or all later."""
    calls: list[str] = []

    def hook(name: str, _: tuple[Any, ...]) -> None:
        if name in kinds:
            calls.append(name)
            if len(calls) == number + 1 or (forever and len(calls) > number):
                raise OSError(error, os.strerror(error))

    return hook
