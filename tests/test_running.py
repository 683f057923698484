"""How a command ends: its exit code, and one line about what is wrong, in any number of processes.

The processes are threads here: see ``threaded_mpi``.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import electra_ref
from electra_ref import message_passing, running
from electra_ref.errors import ReaderGoneError, UserError
from electra_ref.message_passing import MpiProcesses
from electra_ref.processes import ALONE, Processes
from electra_ref.running import Ending, run_alone, run_command, run_together
from electra_ref.training.progress import fitted, show, wants_colour
from tests.threaded_mpi import in_processes


class AbortedError(Exception):
    """Stands for the end of all processes; its argument is the exit code."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher has started the tests."""
    monkeypatch.setattr(running, "launched", lambda: (0, 1))


def failing(error: BaseException) -> Callable[..., int]:
    def command(*_: Any) -> int:
        raise error

    return command


@pytest.mark.parametrize("run", [run_alone, run_command, run_together])
def test_a_command_of_one_process_ends_with_a_code_and_a_line(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("name", lambda *_: 5) == 5
    assert capsys.readouterr().err == ""
    assert run("name", failing(UserError("wrong"))) == 2
    assert capsys.readouterr().err == "name: error: wrong\n"
    assert run("name", failing(MemoryError("9 GB")), "buy more") == 2
    assert capsys.readouterr().err == "name: error: out of memory (9 GB): buy more\n"
    assert run("name", failing(KeyboardInterrupt())) == 130
    assert run("name", failing(ReaderGoneError())) == 141
    assert capsys.readouterr().err == ""
    with pytest.raises(RuntimeError):  # with its traceback
        run("name", failing(RuntimeError("a defect")))


BROKEN = """
import os, sys
from electra_ref.running import run_command
from electra_ref.training.progress import Progress
def command():
    progress = Progress()
    for number in range(3000):
        progress.say(f"line {number}")
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
        file.write("done")
    return 5
sys.exit(run_command("name", command))
"""


@pytest.mark.parametrize("sink", ["2> /dev/full", "2>&-", "2>&- <&-", "2> >(true)"])
def test_standard_error_that_cannot_be_written_ends_no_command(sink: str, tmp_path: Path) -> None:
    """The file that the command opens must not get the number of standard error, either."""
    script = shlex.join([sys.executable, "-c", BROKEN, str(tmp_path / "file")])
    root = str(Path(electra_ref.__file__).parents[1])
    finished = subprocess.run(
        ["bash", "-c", f"{script} {sink}"], capture_output=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (5, b"")
    assert (tmp_path / "file").read_text() == "done"


def test_an_error_is_not_said_on_standard_output_if_there_is_no_other() -> None:
    script = "from electra_ref.train import main; import sys; sys.exit(main(['--wrong']))"
    root = str(Path(electra_ref.__file__).parents[1])
    finished = subprocess.run(
        ["bash", "-c", f"{shlex.join([sys.executable, '-c', script])} 2>&-"], capture_output=True,
        check=False, timeout=60, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (2, b"")


def test_standard_output_that_is_closed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        show("a result")
        return 0

    monkeypatch.setattr(sys, "stdout", None)
    assert run_command("name", command) == 2
    message = "standard output is closed: send it to a terminal, a file or /dev/null"
    assert capsys.readouterr().err == f"name: error: {message}\n"
    assert not wants_colour(sys.stdout)
    assert fitted("a line", sys.stdout) == "a line"


def test_a_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):  # a defect: the folder is there
        run_command("name", lambda: int(Path("missing").read_text()))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_command("name", lambda: len(os.path.abspath("x"))) == 2
    message = "the current folder is gone: change to one that is there"
    assert capsys.readouterr().err == f"name: error: {message}\n"


def test_a_command_of_one_process_gets_it() -> None:
    seen: list[Processes] = []

    def command(processes: Processes) -> int:
        seen.append(processes)
        return 0

    assert run_together("name", command) == 0
    assert seen == [ALONE]


def end_together(
    size: int, endings: Callable[[int], Ending], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], set[int]]:
    """Let each process end so; return the codes that are returned, and those that end all."""
    aborted: set[int] = set()

    def abort(_: MpiProcesses, code: int) -> None:
        aborted.add(code)
        raise AbortedError(code)

    monkeypatch.setattr(MpiProcesses, "abort", abort)
    if all(endings(rank).code for rank in range(size)):  # on a busy machine, too
        monkeypatch.setattr(message_passing, "ENDING_SECONDS", 60.0)

    def end(own: MpiProcesses) -> int:
        try:
            return running._end("name", own, endings(own.rank))
        except AbortedError:
            return -1

    return in_processes(size, end), aborted


def test_an_error_of_all_is_said_by_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes, aborted = end_together(3, lambda _: Ending(2, "wrong", "where\n"), monkeypatch)
    assert (codes, aborted) == ([2, 2, 2], set())
    assert capsys.readouterr().err == "where\nname: error: wrong\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_is_said_by_it_and_ends_all(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def endings(own: int) -> Ending:
        return Ending(2, "wrong") if own == rank else Ending(0)

    codes, aborted = end_together(2, endings, monkeypatch)
    assert codes[rank] == -1
    assert codes[1 - rank] == 0
    assert aborted == {2}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"name: error: process {rank} of 2 on ")
    assert line.endswith(": wrong")


def test_a_signal_needs_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_together(2, lambda own: Ending(143 * own), monkeypatch) == ([0, -1], {143})
    assert end_together(2, lambda _: Ending(143), monkeypatch) == ([143, 143], set())
    assert capsys.readouterr().err == ""


def test_only_the_first_process_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(own: Processes) -> int:
        print("the result of process", own.rank)
        return 0

    for rank in (0, 1):
        own = in_processes(2, lambda own: own)[rank]
        monkeypatch.setattr(running, "open_processes", lambda own=own: own)
        stdout = sys.stdout
        assert run_together("name", command) == 0
        assert sys.stdout is stdout
    assert capsys.readouterr().out == "the result of process 0\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("first line\nsecond"), 1, "RuntimeError: first line"),
        (UserError("wrong"), 2, "wrong"),
        (SystemExit(0), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("text"), 1, ""),
        (SystemExit(), 0, ""),
    ],
    ids=repr,
)
def test_in_several_processes_no_exception_is_left(
    error: BaseException, code: int, message: str
) -> None:
    """An interpreter that ends by itself would wait for the others."""
    ending = running._ending_with_defects(failing(error), "")
    assert (ending.code, ending.error) == (code, message)
    assert ("Traceback" in ending.details) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_no_process_can_do_is_said_by_the_first(
    rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They cannot talk to each other; the launcher has told them their numbers."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(running, "launched", lambda: (rank, 2))
    monkeypatch.setattr(running, "open_processes", failing(UserError("no MPI")))
    assert run_together("name", failing(AssertionError())) == 2
    assert capsys.readouterr().err == ("" if rank else "name: error: no MPI\n")
    assert run_command("name", failing(AssertionError())) == 2
    said = "name: error: it runs in one process: start it without mpiexec\n"
    assert capsys.readouterr().err == ("" if rank else said)
    assert slept == [running.SPEAKING_SECONDS] * 2 * rank


def test_what_the_processes_of_another_node_cannot_do_is_said_by_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(running, "launched", lambda: (4, 8))
    monkeypatch.setattr(running, "open_processes", failing(UserError("no MPI")))
    monkeypatch.setattr(running, "is_first_on_node", lambda: True)
    assert run_together("name", failing(AssertionError())) == 2
    said = capsys.readouterr().err
    assert said.startswith("name: error: process 4 on ")
    assert said.endswith(": no MPI\n")
