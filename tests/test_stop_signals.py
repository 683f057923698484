"""The first signal asks the run to stop, the second ends it; neither prints a traceback."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading

import pytest

from electra_ref.training.stop_signals import StopSignals, exit_code

SIGNALS = [signal.SIGINT, signal.SIGTERM]
# Ends as a trainer does when asked; with "stubborn", goes on until it is killed.
PROGRAM = """
import sys, time
from electra_ref.training.stop_signals import StopSignals, exit_code
with StopSignals() as stop:
    print("ready", flush=True)
    while stop.requested is None:
        time.sleep(0.01)
    print("saved", flush=True)
    while sys.argv[1] == "stubborn":
        time.sleep(0.01)
sys.exit(exit_code(stop.requested))
"""


def start(manner: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, manner],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C at the tests is not for it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return output, errors, process.returncode


def test_on_a_terminal_the_message_takes_the_line_of_the_bar() -> None:
    """Behind the bar stands ^C, which the terminal writes; nothing of it is left on that line."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "obedient"], stdout=subprocess.PIPE, stderr=its, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        written = os.read(ours, 1000)
    finally:
        process.kill()
        os.close(ours)
        os.close(its)
    assert written == b"\r\33[KSIGINT: stopping after this step; again to stop at once\r\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_end(number: signal.Signals) -> None:
    process = start("obedient")
    process.send_signal(number)
    output, errors, code = finish(process)
    assert (output, code) == ("saved\n", 128 + number)
    assert errors == f"\n{number.name}: stopping after this step; again to stop at once\n"


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_ends_the_process(first: signal.Signals, second: signal.Signals) -> None:
    process = start("stubborn")
    assert process.stdout is not None
    process.send_signal(first)
    assert process.stdout.readline() == "saved\n"
    process.send_signal(second)
    output, errors, code = finish(process)
    assert (output, code) == ("", 128 + second)
    assert "Traceback" not in errors


def test_handlers_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals() as outer:
        with StopSignals() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.requested == signal.SIGTERM
        assert outer.requested is None
        os.kill(os.getpid(), signal.SIGINT)
        assert outer.requested == signal.SIGINT
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert capfd.readouterr().err.count("stopping after this step") == 2


def test_an_ignored_signal_is_caught_and_ignored_again_afterwards() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_does_nothing_outside_the_main_thread() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def work() -> None:
        with StopSignals() as stop:
            seen.append([signal.getsignal(number) for number in SIGNALS])
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, None]


def test_exit_codes_are_those_of_a_shell() -> None:
    assert [exit_code(number) for number in SIGNALS] == [130, 143]


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.requested, ended) == (signal.SIGINT, [])
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [143]


def test_a_handler_that_python_cannot_restore_becomes_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``signal.signal`` returns None for a handler that C code installed."""
    installed: list[object] = []
    monkeypatch.setattr(signal, "signal", lambda _, handler: installed.append(handler))
    with StopSignals():
        installed.clear()
    assert installed == [signal.SIG_DFL, signal.SIG_DFL]
