"""The mutants of a campaign are the intended ones, and each that survives is proven equivalent."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.code_mutants import Mutant, find_mutants, mark_statements
from tests.mutant_campaign import ROOT, Outcome, choose, find_all, report

EQUIVALENT = Path(__file__).parent / "data" / "equivalent_mutants.txt"

TOY = '''
"""A module."""
__all__ = ["count"]
Number = int | float
START = 1.0

def count(limit: Number, *, most: int = 9) -> Number:
    """Count to ``limit``."""
    assert limit >= 0
    if limit > most:
        raise ValueError("too far")
    number = START
    while number < min(limit, most):
        number += 1
    return number

def never(number: int) -> int:
    return -number
'''
TESTS = """
import pytest
import toy

@pytest.mark.parametrize("limit", [6, 9])
def test_count(limit):
    assert toy.count(limit) == limit

def test_limit():
    with pytest.raises(ValueError):
        toy.count(10)
    assert toy.count(0, most=2) == 1
"""
FATES = {  # of all mutants of the toy; None for those that never end
    "toy: START = 1.0 -> START = 1.5": "test_count[6]",
    "toy.count: defaults 9 -> defaults 10": "test_limit",
    "toy.count: defaults 9 -> defaults 8": "test_count[9]",
    "toy.count: if limit > most: -> if True:": "test_count[6]",
    "toy.count: limit > most -> limit >= most": "test_count[9]",
    "toy.count: limit > most -> limit < most": "test_count[6]",
    "toy.count: raise ValueError -> nothing": "test_limit",
    "toy.count: while number < min(limit, most): -> while False:": "test_count[6]",
    "toy.count: number < min(limit, most) -> number <= min(limit, most)": "test_count[6]",
    "toy.count: number < min(limit, most) -> number > min(limit, most)": "test_count[6]",
    "toy.count: min(limit, most) -> min(most, limit)": "",
    "toy.count: min(limit, most) -> min(limit)": "test_count[6]",
    "toy.count: min(limit, most) -> limit": "",
    "toy.count: number += 1 -> nothing": None,
    "toy.count: number += 1 -> number = 1": None,
    "toy.count: number += 1 -> number -= 1": None,
    "toy.count: number += 1 -> number += 2": "test_count[6]",
    "toy.count: number += 1 -> number += 0": None,
    "toy.count: return number -> return None": "test_count[6]",
    "toy.never: return -number -> return None": "",
    "toy.never: -number -> number": "",
}
JUDGING = """
import ast, functools, json, pathlib
from tests import mutant_process
from tests.code_mutants import apply, find_mutants
from tests.forked_jobs import run_jobs

def judge(mutant, folder):
    return mutant_process.judge("toy", apply(mutant), judges, folder)

mutant_process.PATIENCE = 0.1
tree = ast.parse(pathlib.Path("toy.py").read_text())
record = functools.partial(mutant_process.record, {"toy": tree}, ["test_toy.py"])
judges = dict(run_jobs({"": record}))[""]
judges.sort(key=lambda judge: judge.test)
jobs = {mutant.name: functools.partial(judge, mutant) for mutant in find_mutants("toy", tree)}
statements = [len(judge.statements["toy"]) for judge in judges]
print(json.dumps([statements, dict(run_jobs(jobs))]))
"""


@pytest.mark.slow
def test_toy_mutants_are_found_and_judged(tmp_path: Path) -> None:
    """Each is found, and noticed by the test that should; a loop without end is ended."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "test_toy.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    done = subprocess.run(
        [sys.executable, "-c", JUDGING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    statements, fates = json.loads(done.stdout)
    assert statements == [6, 6, 6]
    assert {n: fate and fate.removeprefix("test_toy.py::") for n, fate in fates.items()} == FATES


def test_a_module_that_marks_its_statements_does_the_same() -> None:
    """Docstrings stay, and every statement inside a function has a number of its own."""
    tree = ast.parse(TOY)
    mark_statements(tree, "mark")
    reached: list[int] = []
    toy: dict[str, Any] = {"mark": reached.append}
    exec(compile(tree, "toy", "exec"), toy)
    assert toy["count"](2) == 2
    assert toy["count"].__doc__ == "Count to ``limit``."
    assert toy["never"](1) == -1
    assert len(set(reached)) == len(reached) == 7


def test_long_code_is_shown_around_the_change() -> None:
    names = [m.name for m in find_mutants("toy", ast.parse(f"x = {list(range(100, 150))}"))]
    assert names[40] == (
        "toy: ...4, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126... -> "
        "...4, 115, 116, 117, 118, 119, 121, 121, 122, 123, 124, 125, 126..."
    )
    assert len(set(names)) == len(names) == 100


@functools.cache
def all_mutants() -> list[Mutant]:
    """Return the mutants of all areas; to find them takes seconds."""
    return find_all()


@pytest.mark.slow
def test_the_choice_is_fair_and_the_same_every_time() -> None:
    """Every module has its share; a module that is edited keeps most of what was chosen."""
    mutants = all_mutants()
    chosen = choose(mutants, 300)
    assert [m.name for m in choose(mutants[::-1], 300)] == [m.name for m in chosen]
    modules = {mutant.module for mutant in mutants}
    assert {mutant.module for mutant in chosen} == modules
    assert 300 <= len(chosen) <= 300 + 10 * len(modules)
    half = {mutant.name for mutant in mutants[::2]}
    kept = {mutant.name for mutant in choose([m for m in mutants if m.name in half], 150)}
    assert len(kept & {mutant.name for mutant in chosen}) > 100


def test_what_survives_is_reported() -> None:
    outcomes = [
        Outcome("toy", "toy.count: 1 -> 2", "test_count"),
        Outcome("toy", "toy.count: 1 -> 0", "stopped"),
        Outcome("toy", "toy.never: 1 -> 0", "no test runs it"),
        Outcome("doll", "doll: 1 -> 0", "survived"),
    ]
    assert [outcome.survived for outcome in outcomes] == [False, False, True, True]
    lines = [" ".join(line.split()) for line in report(outcomes).splitlines()]
    assert lines == [
        "failed a test stopped survived no test runs it",
        "doll 0 0 1 0",
        "toy 1 1 0 1",
        "all 1 1 1 1",
        "",
        "no test runs it: toy.never: 1 -> 0",
        "survived: doll: 1 -> 0",
    ]


def equivalent_mutants() -> dict[str, str]:
    """Return the proof for each mutant that changes nothing; several can share one."""
    proofs = {}
    proof = ""
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("    "):
            assert line.strip() not in proofs
            proofs[line.strip()] = proof
        elif line:
            proof = line
    return proofs


@pytest.mark.slow
def test_mutants_that_are_called_equivalent_exist() -> None:
    """Where code has changed, the proof must be read again."""
    assert set(equivalent_mutants()) - {mutant.name for mutant in all_mutants()} == set()


@pytest.mark.campaign
def test_every_mutant_is_noticed_unless_proven_equivalent(tmp_path: Path) -> None:
    """No other survives, and each that is listed as equivalent does."""
    file = tmp_path / "outcomes.json"
    subprocess.run(
        [sys.executable, "-m", "tests.mutant_campaign", "--json", str(file)],
        cwd=ROOT,
        check=True,
    )
    outcomes = [Outcome(*outcome) for outcome in json.loads(file.read_text())]
    assert len(outcomes) >= 600
    survivors = {outcome.mutant for outcome in outcomes if outcome.survived}
    equivalent = set(equivalent_mutants()) & {outcome.mutant for outcome in outcomes}
    assert survivors - equivalent == set()
    assert equivalent - survivors == set()
