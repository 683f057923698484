"""Shards that several processes tokenize: who takes which, and who waits for whom.

The processes are threads here: see ``threaded_mpi``. Whole runs are in
``test_commands_in_processes``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.process import THREADS
from electra_ref.processes import ALONE, Processes, in_turn
from electra_ref.text import sharing
from electra_ref.text.corpus_file import CorpusFile
from electra_ref.text.reading import Reading, Share
from electra_ref.text.shards import Shard
from electra_ref.text.sharing import help_first, tokenize_share, with_helpers
from electra_ref.text.tokenizing import Recipe
from tests.threaded_mpi import in_processes

RECIPE = Recipe(("a", "b"), lowercase=True, strip_accents=True)
SHARDS = [
    Shard((CorpusFile(f"{number}.txt", "", "text", "text", None, 10 + number, 0),))
    for number in range(5)
]


def in_each(
    own: Processes,
    prepare: Callable[[Share], str],
    done: list[tuple[int, Recipe, Any]],
    fails: int = -1,
) -> str:
    """Do in a process what preparing does; the process ``fails`` cannot tokenize."""

    def tokenize(recipe: Recipe, given: Any) -> None:
        done.append((own.rank, recipe, given))
        if own.rank == fails:
            raise UserError("the disk is full")

    if own.rank > 0:
        help_first(own, tokenize)
    return in_turn(own, lambda: (with_helpers(own, tokenize, prepare), ""), lambda _: "found")


def test_all_tokenize_what_the_first_one_shares() -> None:
    def prepare(share: Share) -> str:
        share(RECIPE, SHARDS)
        return "prepared"

    done: list[Any] = []
    results = in_processes(3, lambda own: in_each(own, prepare, done))
    assert results == ["prepared", "found", "found"]
    assert sorted(done) == [(rank, RECIPE, SHARDS) for rank in range(3)]


def test_nobody_waits_if_nothing_is_shared() -> None:
    done: list[Any] = []
    assert in_processes(2, lambda own: in_each(own, lambda _: "cached", done)) == [
        "cached", "found",
    ]  # fmt: skip
    assert done == []


def test_an_error_of_the_first_process_is_raised_in_all() -> None:
    """Before it shares anything, and in its own share."""

    def refuse(_: Share) -> str:
        raise UserError("there is no corpus")

    def prepare(share: Share) -> str:
        share(RECIPE, SHARDS)
        return "prepared"

    def end(own: MpiProcesses) -> None:
        with pytest.raises(UserError, match="no corpus"):
            in_each(own, refuse, [])
        with pytest.raises(UserError, match="disk is full"):
            in_each(own, prepare, [], fails=0)

    in_processes(3, end)


def test_one_process_shares_nothing() -> None:
    def prepare(share: Share) -> str:
        share(RECIPE, SHARDS)
        return "prepared"

    done: list[Any] = []
    assert in_each(ALONE, prepare, done) == "prepared"
    assert done == []


@pytest.mark.parametrize(("workers", "threads", "expected"), [(8, "3", 3), (2, "3", 2)])
def test_a_share_is_every_kth_shard_by_as_many_workers_as_there_are_threads(
    workers: int, threads: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS[0], threads)
    given: dict[tuple[str | int, ...], int] = {}
    said: list[tuple[str, int, int]] = []

    def do_all(begin: Any, tasks: Any, workers: int, on_amount: Any) -> None:
        assert begin.args == (RECIPE, tmp_path)
        assert begin.keywords == {"verify": True}
        given[tuple(shard.files[0].path for shard in tasks)] = workers
        on_amount(4)

    monkeypatch.setattr(sharing, "do_all", do_all)

    def take(own: MpiProcesses) -> None:
        reading = Reading(workers, verify=True)
        tokenize_share(own, RECIPE, SHARDS, tmp_path, reading, lambda *what: said.append(what))

    in_processes(2, take)
    assert given == {("0.txt", "2.txt", "4.txt"): expected, ("1.txt", "3.txt"): expected}
    assert sorted(said) == [("tokenizing", 4, 24), ("tokenizing", 4, 36)]
