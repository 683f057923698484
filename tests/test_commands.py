"""All commands under one name, and what a package index is told of them."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from electra_ref import __main__ as commands
from electra_ref import __version__, train

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_a_command_gets_its_arguments_and_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    module = importlib.import_module(f"electra_ref.{name}")

    def record(*arguments: Any) -> int:
        given.append(arguments)
        return 7

    monkeypatch.setattr(module, "main", record)
    assert commands.main([name, "--flag", "value"]) == 7
    assert given == [(["--flag", "value"], f"electra-ref {name}")]


@pytest.mark.parametrize("name", commands.COMMANDS)
@pytest.mark.parametrize("program", ["electra-ref", "python -m electra_ref"])
def test_messages_call_a_command_as_the_user_did(
    name: str,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        commands.main([name, "--help"], program)
    assert capsys.readouterr().out.startswith(f"usage: {program} {name} ")


def test_an_error_of_a_command_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["train", "--max-steps", "0"]) == 2
    assert capsys.readouterr().err == "electra-ref train: error: --max-steps 0: at least 1\n"
    assert train.main(["--max-steps", "0"]) == 2
    assert capsys.readouterr().err.startswith("python -m electra_ref.train: error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a command: train"),
        (["trian"], "there is no command 'trian'; there are: train"),
        (["--unknown"], "there is no command '--unknown'"),
        (["\33[2J"], r"there is no command '\x1b[2J'"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"electra-ref: error: {message}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_a_line_for_each_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([flag]) == 0
    shown = capsys.readouterr().out
    width = max(map(len, commands.COMMANDS))
    for name, description in commands.COMMANDS.items():
        assert f"\n  {name:{width}}  {description}\n" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "--version"],
        ["train", "--print-config"],
    ],
    ids=" ".join,
)
def test_a_reader_that_went_away_ends_a_command_quietly(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its end, Python must not write the rest again."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert commands.main(arguments) == 141
    assert capsys.readouterr().err == ""


def test_the_package_runs_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["electra_ref", "--version"])
    monkeypatch.delitem(sys.modules, "electra_ref.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("electra_ref", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"electra_ref {__version__}\n"


def test_the_project_names_its_script_and_its_version() -> None:
    module, _, function = PROJECT["scripts"]["electra-ref"].partition(":")
    assert getattr(importlib.import_module(module), function) is commands.main
    assert PROJECT["version"] == __version__


def test_git_ignores_what_the_commands_of_the_readme_write() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = "".join(readme.split("```")[1::2])
    written = re.findall(r"(?:> |--to |-m venv |numpy\.save\(')([\w./-]+)", blocks)
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split("\n")
    assert len(written) >= 7
    for path in written:
        name = path.split("/")[0]
        assert {f"{name}/", f"/{name}/", f"/{name}"} & {*ignored}, path
