"""Work in several processes: results in order, errors of people and of the machine, an end for all.

Each process loads this module, so it is kept small.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.text import workers
from electra_ref.text.workers import OnAmount, do_all

Work = Callable[[int, OnAmount], tuple[int, int]]


def squaring(folder: Path | None = None) -> Work:
    """Return work that takes longer for the first tasks, and tells who did it."""

    def square(task: int, on_amount: OnAmount) -> tuple[int, int]:
        if folder is not None:
            (folder / f"{task}.{os.getpid()}").touch()
        if task == -1:
            raise UserError("task -1 is wrong")
        if task == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        if task == -3:
            for _ in range(600):
                time.sleep(0.1)
                on_amount(1)
        if task == -4:
            raise ZeroDivisionError("a mistake")
        time.sleep(0.3 / (1 + task) if task >= 0 else 0)
        on_amount(task)
        on_amount(1)
        return task * task, os.getpid()

    return square


def ignore(_: int) -> None:
    pass


@pytest.mark.parametrize("count", [1, 2])
def test_results_stand_in_the_order_of_the_tasks(count: int) -> None:
    amounts: list[int] = []
    found = do_all(squaring, range(5), count, amounts.append)
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    assert sum(amounts) == 10 + 5
    processes = {process for _, process in found}
    assert (os.getpid() in processes) == (count == 1)
    assert len(processes) == count


def test_one_task_starts_no_process() -> None:
    assert do_all(squaring, [3], 2, ignore) == [(9, os.getpid())]
    assert do_all(squaring, [], 2, ignore) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_raised_here_and_ends_the_work(count: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^task -1 is wrong$"):
        do_all(partial(squaring, tmp_path), [3, -1, 4, -3], count, ignore)
    assert count == 2 or {path.stem for path in tmp_path.iterdir()} == {"3", "-1"}
    with pytest.raises(ZeroDivisionError, match="a mistake") as caught:
        do_all(squaring, [3, -4], count, ignore)
    if count == 2:
        assert "in square" in caught.value.__notes__[0], "where it happened is told"


def test_a_process_that_is_killed_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"was ended by SIGKILL.*fewer --workers"):
        do_all(squaring, [-2, 1, 2], 2, ignore)


def test_who_is_told_may_stop_the_work(tmp_path: Path) -> None:
    """All processes end, also one in the middle of a task, and soon."""
    started: list[float] = []

    def stop(_: int) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            started.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_all(partial(squaring, tmp_path), [-3, -3, -3], 2, stop)
    assert time.monotonic() - started[0] < workers.SECONDS_TO_END + 5
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.suffix[1:]), 0)


def ends_soon(process: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {process} goes on")


INTERRUPTED = """
import signal
import sys
from functools import partial
from pathlib import Path
from electra_ref.text.workers import do_all
from tests.test_workers import squaring

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    begin = partial(squaring, Path(sys.argv[1]))
    try:
        do_all(begin, [-3, -3], 2, lambda _: None)
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_first_process_ends_all(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches all of them, but only the first answers; kill -9 reaches the first alone."""
    script, tasks = tmp_path / "script.py", tmp_path / "tasks"
    script.write_text(INTERRUPTED)
    tasks.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(tasks)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while len(list(tasks.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
        assert process.communicate(timeout=60) == ("stopped\n", "")
        assert process.returncode == 0
    else:
        process.kill()
        process.communicate(timeout=60)
    for worker in (int(path.suffix[1:]) for path in tasks.iterdir()):
        if number == signal.SIGINT:
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)
        else:
            ends_soon(worker)
