"""The benchmark of several processes runs, and its model is the formula. No time is asserted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import limited_link, network_model, processes, ranks
from benchmarks.network_model import (
    ADDING_SECONDS,
    OPTIMIZER_SECONDS,
    Network,
    Work,
    efficiency,
    exchange_seconds,
    network_of,
    parameters_of,
    step_seconds,
    work_of,
)
from electra_ref.config.pretraining import resolve_config
from electra_ref.errors import UserError
from electra_ref.message_passing import slice_length
from electra_ref.processes import ALONE
from electra_ref.slices import pieces_of
from tests.mpi_runs import need_mpi
from tests.test_benchmarks import SIZES, TOY, toy_config

SMALLEST = [*TOY[: TOY.index("--threads")], "--precision", "float32"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of one preset."""
    monkeypatch.setattr(processes, "MODELLED", ("small",))


def test_a_step_of_one_machine_needs_no_network() -> None:
    work = Work(sequences=8, tokens=10, sequence_seconds=2.0, parameters=10**6)
    slow = Network(alpha=1.0, beta=1.0)
    assert exchange_seconds(10**6, 1, slow) == 0
    assert step_seconds(work, 1, slow) == 16 + 10**6 * OPTIMIZER_SECONDS
    assert efficiency(work, 1, slow) == 1


def test_the_exchange_follows_the_formula() -> None:
    """Four machines send two slices of a quarter to three others each, and add three."""
    numbers = 10**6  # one piece
    seconds = exchange_seconds(numbers, 4, Network(alpha=1e-3, beta=1e-9))
    assert seconds == pytest.approx(
        2 * 3 * 1e-3 + 2 * 3 * numbers * 1e-9 + 3 / 4 * numbers * ADDING_SECONDS, rel=1e-12
    )


@pytest.mark.parametrize(
    ("count", "numbers", "rounds"),
    [(2, 2**20, 2), (2, 2**22 + 2, 10), (2, 2**22 + 1, 9), (8, 2**22, 8), (16, 2**22, 4),
     (1024, 2**27 + 1, 3), (1024, 5, 1)],
)  # fmt: skip
def test_every_piece_has_its_messages_and_so_has_the_rest(
    count: int, numbers: int, rounds: int
) -> None:
    """From 8 machines on, it is the length of a slice that is given; a rest is not gathered."""
    pieces = list(pieces_of(numbers, count, slice_length(count)))
    assert sum(1 + (slices[0] != slices[-1]) for slices in pieces) == rounds
    seconds = exchange_seconds(numbers, count, Network(1.0, 0.0))
    messages = seconds - (count - 1) / count * numbers * ADDING_SECONDS
    assert messages == pytest.approx(rounds * (count - 1), rel=1e-12)


def test_more_machines_are_faster_and_less_efficient_and_a_network_that_takes_no_time_is_best() -> (
    None
):
    work = Work(sequences=64, tokens=128, sequence_seconds=0.01, parameters=10**7)
    for count in (2, 4, 8):
        assert step_seconds(work, count, network_of(10)) < step_seconds(work, 1, network_of(10))
        figures = [efficiency(work, count, network_of(rate)) for rate in (1, 10, 100)]
        assert figures == sorted(figures)
        assert figures[-1] < efficiency(work, count, Network(0, 0)) < 1
        assert efficiency(work, 2 * count, network_of(10)) < efficiency(work, count, network_of(10))
    uneven = efficiency(work._replace(parameters=0), 48, Network(0, 0))
    assert uneven == pytest.approx(64 / (2 * 48), rel=1e-12)


def test_the_steps_are_those_of_the_presets() -> None:
    """The speed measured at length 128 becomes less with the length and the vocabulary."""
    base, large = work_of("base"), work_of("large")
    assert (base.sequences, base.tokens) == (256, 512)
    assert base.tokens / base.sequence_seconds < network_model.MEASURED_TOKENS_PER_SECOND["base"]
    assert 2 < large.sequence_seconds / base.sequence_seconds < 4
    assert 3e8 < large.parameters < 4e8
    rows, speed = (found["base"] for found in (
        network_model.MEASURED_ROWS, network_model.MEASURED_TOKENS_PER_SECOND
    ))  # fmt: skip
    then = resolve_config(preset="base", settings=list(network_model.MEASURED_AT))
    dearer = network_model.flop_of_token(
        resolve_config(preset="base", settings=[f"vocab_size={network_model.ENTRIES}"])
    ) / network_model.flop_of_token(then)
    step = rows * 128 * base.sequence_seconds / 512 / dearer
    step += parameters_of(then) * network_model.OPTIMIZER_SECONDS  # of rows as they were measured
    assert step == pytest.approx(rows * 128 / speed, rel=1e-12)
    assert work_of("small", 1280.0).sequence_seconds == pytest.approx(0.1, rel=1e-12)


def test_the_gradient_has_a_number_for_each_parameter() -> None:
    small, wide = (parameters_of(toy_config(f"vocab_size={size}")) for size in (64, 96))
    assert wide - small == 32 * (32 + 1)  # a row of the table, and a bias of the MLM head


def test_every_batch_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state counts the steps; nothing else may."""
    read: list[bytes] = []

    def train_step(*given: Any) -> Any:
        read.append(given[5][0].input_ids.tobytes())
        given[4].step += 1
        return SimpleNamespace(loss=0.0)

    monkeypatch.setattr(ranks, "train_step", train_step)
    settings = [*SIZES, "batch_size=4", "max_length=32", "vocab_size=64"]
    step = ranks.tasks_of(ALONE, "small", settings, "float32", 4)[ranks.STEP]
    for _ in range(5):
        step()
    assert len(set(read)) == 4
    assert read[4] == read[0]


@pytest.mark.usefixtures("few")
def test_the_table_needs_no_mpi(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    given = ["--model", "--latency", "0", "--tokens-per-second", "small=1e4"]
    assert processes.main(given) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    points = summary["model"]
    assert {point["gigabits"] for point in points} == {10, 25, 100, 400}
    assert {point["processes"] for point in points} == {2**power for power in range(8)}
    assert all(0 < point["efficiency"] <= 1 for point in points)
    alone = points[0]
    rows = 25e9 / 110  # of 128 tokens, 12.8 ms each
    assert alone["processes"] == 1
    assert alone["pass_days"] == pytest.approx(rows * alone["step_seconds"] / 128 / 86_400)
    assert alone["step_seconds"] == pytest.approx(128 * 0.0128, rel=0.01)
    assert "commit" in summary["machine"]
    assert "steps" not in summary
    assert any("10,000 tokens/s in one process" in line for line in table)


@pytest.mark.usefixtures("few")
def test_the_last_line_has_steps_and_sums(capfd: pytest.CaptureFixture[str]) -> None:
    need_mpi()
    assert processes.main([*SMALLEST]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert list(summary["steps"]) == ["2 processes x 1 thread", "1 process x 2 threads"]
    for each in summary["steps"].values():
        assert each["tokens_per_second"] == pytest.approx(64 / each["all_seconds"][0])
        assert each["cpu_seconds"]["median"] > 0
    assert summary["reduction"]["numbers"] == parameters_of(toy_config())
    assert set(summary["reduction"]) == {"numbers", "tree", "allreduce", "ratio", "one_number"}
    assert summary["ratio"]["median"] > 0
    assert summary["config"]["accumulate"] == 2
    assert any("the same bits" in line for line in table)


def answering(*answers: dict[str, Any]) -> Any:
    """Return a class in place of ``Ranks`` whose processes answer with these figures."""

    class Answering:
        name = "processes"

        def __init__(self, *_: Any) -> None:
            self._answers = iter(answers)

        def do(self, _: Any) -> dict[str, Any]:
            return next(self._answers)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

    return Answering


STEP = {"seconds": 2.0, "cpu_seconds": 3.0, "loss": 1.0, "sha256": "same"}
ADDED = {"tree": 0.5, "allreduce": 0.25, "one_number": 0.001}


def test_processes_that_leave_other_bits_are_found_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    digests = iter("ab")

    class Differing(answering(ADDED)):  # type: ignore[misc]
        def __enter__(self) -> Any:
            self._answers = iter([{**STEP, "sha256": next(digests)}, ADDED])
            return self

    monkeypatch.setattr(processes, "Ranks", Differing)
    monkeypatch.setattr(processes, "mpiexec", lambda: "mpiexec")
    assert processes.main([*SMALLEST]) == 2
    assert "do not leave the same bits" in capfd.readouterr().err


def test_what_is_measured_over_a_link_stands_beside_the_model(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "Ranks", answering(STEP, ADDED))
    monkeypatch.setattr(processes, "mpiexec", lambda: "mpiexec")
    monkeypatch.setattr(limited_link, "_run", lambda *_: "state UP")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    monkeypatch.setattr(processes, "origin", lambda _: {})
    monkeypatch.setattr(processes, "print_origin", lambda _: None)
    assert processes.main([*SMALLEST, "--link", "100"]) == 0
    found = json.loads(capfd.readouterr().out.splitlines()[-1])["link"]
    predicted = exchange_seconds(parameters_of(toy_config()), 2, Network(0.001, 8e-8))
    assert found["sum"] == {"model": predicted, "measured": {"min": 0.5, "median": 0.5, "max": 0.5}}
    assert found["step"]["model"] == pytest.approx(2.0 - 0.5 + predicted)
    assert found["step"]["measured"]["median"] == 2.0


def test_a_link_is_taken_away_when_it_could_not_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(list(command))
        refused = command[0] == "tc"
        return subprocess.CompletedProcess(command, int(refused), "", "not permitted\n" * refused)

    monkeypatch.setattr(subprocess, "run", run)
    refusal = r"needs root .*`tc -n electra-ref-.* failed \(not permitted\)"
    with pytest.raises(UserError, match=refusal), limited_link.limited_link("mpiexec", 100):
        pass
    assert [call[:3] for call in calls[-2:]] == [["ip", "netns", "del"]] * 2


def test_without_ip_one_line_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"--link: ip cannot be started \(No such file"),
        limited_link.limited_link("mpiexec", 100),
    ):
        pass


def test_nothing_is_started_before_both_ends_of_the_link_are_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["state DOWN", "state LOWERLAYERDOWN", "state UP", "state DOWN", "state UP"])
    asked: list[str] = []
    devices: set[str] = set()

    def run(*command: str) -> str:
        if command[:3] == ("ip", "link", "add"):
            devices.update((command[3], command[command.index("peer") + 2]))
        if "show" not in command:
            return ""
        asked.append(command[2][-1])
        return next(answers)

    monkeypatch.setattr(limited_link, "_run", run)
    with limited_link.limited_link("mpiexec", 100) as link:
        assert asked == ["0", "0", "0", "1", "1"]
    assert {link.environment["UCX_NET_DEVICES"]} == devices
    monkeypatch.setattr(limited_link, "_run", lambda *_: "state DOWN")
    monkeypatch.setattr(limited_link, "LINK_SECONDS", 0.01)
    refused = pytest.raises(UserError, match=r"did not come up in 0\.01 s")
    with refused, limited_link.limited_link("mpiexec", 100):
        pass


def test_the_replacement_of_ssh_runs_a_command_in_the_namespace_of_the_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """With a program named ip that says how it was called."""
    (tmp_path / "ip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "ip").chmod(0o700)
    monkeypatch.setattr(limited_link, "_run", lambda *_: "state UP")
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with limited_link.limited_link("mpiexec", 100) as link:
        script = link.launcher[link.launcher.index("-launcher-exec") + 1]
        for end, address in enumerate(limited_link.ADDRESSES):
            words = [script, "-x", address, "echo", "a b"]
            done = subprocess.run(
                words, env=environment, capture_output=True, text=True, check=True
            )
            name = f"electra-ref-{os.getpid()}-{end}"
            assert done.stdout.strip() == f"netns exec {name} sh -c echo a b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "1"], "--processes 1: at least 2"),
        (["--repeats", "0"], "--repeats 0: at least 1"),
        (["--link", "0"], "--link 0: at least 1"),
        (["--link", "10", "--processes", "3"], "--processes 3: a link has two ends"),
        (["--latency", "-1"], "--latency -1.0: at least 0"),
        (["--tokens-per-second", "tiny=5"], "--tokens-per-second tiny=5: write one of small, base"),
        (["--tokens-per-second", "small=0"], "--tokens-per-second small=0: write one of"),
        (["--set", "hiden_size=2"], "unknown key 'hiden_size'"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert processes.main(arguments) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_without_mpi_one_line_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert processes.main([*SMALLEST]) == 2
    assert "there is no mpiexec: pip install 'electra-ref[mpi]'" in capfd.readouterr().err


def test_processes_that_fail_say_why() -> None:
    need_mpi()
    order = {"preset": "small", "settings": ["hiden_size=2"], "precision": "float32", "batches": 1}
    both = ranks.Ranks("both", [ranks.mpiexec(), "-n", "2"], 1, order)
    with pytest.raises(UserError, match=r"^both: .*hiden_size"), both:
        pass
