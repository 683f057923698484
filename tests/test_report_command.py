"""The command that writes a report: where it may write, and a run that goes on after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from electra_ref import report
from electra_ref.training.completing import Limits
from electra_ref.training.pretraining.run import complete, resume
from electra_ref.training.report import drawing
from electra_ref.training.report.output import NAME
from electra_ref.training.report.page import MARKER
from electra_ref.training.stop_signals import StopSignals
from tests.report_runs import Page, make_run, plain_drawing
from tests.small_runs import begin_small, quiet, write_corpus

Main = Callable[..., int]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Main:
    """The command without matplotlib: figures are their words."""
    monkeypatch.setattr(drawing, "require_matplotlib", lambda: None)
    monkeypatch.setattr(drawing, "draw", plain_drawing)
    return lambda *arguments: report.main([str(argument) for argument in arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on standard error."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_report_is_in_the_folder_of_the_first_run(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert main(first, other) == 0
    assert capsys.readouterr() == (f"the report is in {first / NAME}\n", "")
    written = (first / NAME).read_bytes()
    assert "2 runs" in Page(written.decode()).text
    assert not (other / NAME).exists()
    assert main(first, other) == 0  # a report is replaced
    assert (first / NAME).read_bytes() == written
    assert not [path for path in first.iterdir() if path.name.endswith(".tmp")]


def test_the_report_is_written_where_it_is_wanted(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = make_run(tmp_path / "a"), tmp_path / "page\x1b.html"
    assert main(run, "--output", output) == 0
    assert capsys.readouterr().out == f"the report is in {tmp_path}/page\\x1b.html\n"
    assert MARKER in output.read_text(encoding="utf-8")
    assert not (run / NAME).exists()


@pytest.mark.parametrize("kind", ["a file", "a folder", "a link to nothing", "a pipe", "the log"])
def test_nothing_but_a_report_is_overwritten(
    kind: str, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = make_run(tmp_path / "a"), tmp_path / "page.html"
    if kind == "a file":
        output.write_text("<!DOCTYPE html>" + " " * 5000 + MARKER)
    elif kind == "a folder":
        output.mkdir()
    elif kind == "a link to nothing":
        output.symlink_to(tmp_path / "nothing")
    elif kind == "a pipe":
        os.mkfifo(output)
    else:
        output = run / "metrics.jsonl"
    before = os.lstat(output)
    assert main(run, "--output", output) == 2
    assert "choose another --output" in error_of(capsys)
    assert os.lstat(output) == before


def test_a_missing_folder_is_not_created(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a")
    assert main(run, "--output", tmp_path / "b" / "page.html") == 2
    assert f"{tmp_path / 'b'} is no folder" in error_of(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: RUN_DIR; --help lists all arguments"),
        ([""], "an empty name stands for no folder"),
        (["nowhere", "--output", ""], "an empty name stands for no file"),
        (["nowhere"], "nowhere holds no run of electra_ref; check the path"),
        (["a", "a"], "a run is named twice"),
        (["a", "--ouput", "x"], "unknown argument --ouput; the nearest one is --output"),
        (["a", "--batch-size", "3"], "unknown argument --batch-size; --help lists all arguments"),
        (["a", "--lr", "3"], "unknown argument --lr; --help lists all arguments"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    main: Main,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("a"))
    assert main(*arguments) == 2
    error = error_of(capsys)
    assert error.startswith("python -m electra_ref.report: error: ")
    assert message in error
    assert not Path("a", NAME).exists()


def test_without_matplotlib_the_command_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert report.main([str(make_run(tmp_path / "a"))]) == 2
    error = error_of(capsys)
    assert "a report needs matplotlib" in error
    assert error.endswith("pip install 'matplotlib>=3.8'\n")


@pytest.mark.usefixtures("quick")
def test_a_run_is_reported_while_it_goes_on(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run trains half-way, is reported, resumes beside the report, and is reported again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corpus, folder = write_corpus(tmp_path / "corpus.txt"), tmp_path / "run"
    with begin_small(folder, corpus).run as run:
        assert main(folder) == 0  # before the first step
        assert "nothing is logged yet" in (folder / NAME).read_text(encoding="utf-8")
        assert run.metrics.exists() is False
    with (trainer := resume(folder, [], None, quiet(), StopSignals())).run:
        complete(trainer, StopSignals(), Limits(5, None, 0.0))
    printed = capsys.readouterr().out
    assert f": python -m electra_ref.report {folder}\n" in printed
    assert main(folder) == 0
    assert "step 5 of 20" in Page((folder / NAME).read_text(encoding="utf-8")).text
    with (trainer := resume(folder, ["steps=30"], None, quiet(), StopSignals())).run:
        complete(trainer, StopSignals(), Limits(None, None, 0.0))
    assert main(folder) == 0
    page = Page((folder / NAME).read_text(encoding="utf-8"))
    assert "step 30 of 30" in page.text
    assert "From step 5 on: steps = 30, before 20." in page.text
    assert len(page.named("figure")) == 9
    assert len([given for given in page.named("ol") if given["class"] == "tokens"]) == 2
