"""Whole runs in several processes: the same bits for any number of them, and how they end.

Skipped where mpi4py or an mpiexec is missing. What needs neither is in ``test_processes``.
"""

from __future__ import annotations

import functools
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.training.checkpoint import list_checkpoints, load_newest_checkpoint
from electra_ref.training.records import read_records
from tests.mpi_runs import finish, hashes_of, need_mpi, run_mpi, run_one, start_mpi
from tests.small_finetuning import SMALLEST, settings_flags, write_encoder, write_examples

STEPS = 20
SETTINGS: dict[str, Any] = {
    "vocab_size": 155,  # 150 ids and the special tokens
    "embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_length": 20, "max_position_embeddings": 20,
    "hidden_dropout": 0.1, "attention_dropout": 0.1, "initializer_range": 0.2,
    "initial_attention": "random",
    "batch_size": 12, "accumulate": 6, "steps": STEPS, "warmup_steps": 2, "log_every": 1,
    "evaluate_every": 5, "evaluation_batches": 2, "checkpoint_every": 5,
}  # fmt: skip
ENDED_SECONDS = 5.0  # after a process has died

# Does something in one process when it is about to begin the step number 7.
BROKEN = """
import os, signal, sys, time
from electra_ref import train
from electra_ref.errors import UserError
from electra_ref.training import loop
original = loop.train_step
def train_step(config, backend, objective, model, state, batches, processes):
    if state.step == 7 and processes.rank == int(sys.argv[1]):
        open(sys.argv[2], "w").close()
        exec(sys.argv[3])
    return original(config, backend, objective, model, state, batches, processes)
loop.train_step = train_step
sys.exit(train.main(sys.argv[4:]))
"""


@pytest.fixture(autouse=True)
def _mpi() -> None:
    need_mpi()


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of token ids."""
    path = tmp_path_factory.mktemp("data") / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, 150, (40, 70)))
    return path


def settings_of(**changes: Any) -> list[str]:
    values = {**SETTINGS, **changes}
    return [flag for key, value in values.items() for flag in ("--set", f"{key}={value}")]


def arguments(
    ids: Path, output: Path, device: str = "reference", precision: str = "float64", **changes: Any
) -> list[str]:
    return [
        *("--tokens", str(ids), "--output-dir", str(output)),
        *("--device", device, "--precision", precision, *settings_of(**changes)),
    ]


def train(*command: str) -> tuple[str, ...]:
    return "-m", "electra_ref.train", *command


def lines_of(errors: str) -> list[str]:
    """Return the lines on standard error that are not of the launcher."""
    lines = (line.strip() for line in errors.splitlines())
    return [line for line in lines if line and not line.startswith("[mpiexec@")]


KINDS = {
    "float32": ("cpu", "float32"),
    "bfloat16": ("cpu", "bfloat16"),
    "reference": ("reference", "float64"),
}


@pytest.fixture(scope="module")
def alone(ids: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return what a run of one process leaves; each kind is trained once."""

    @functools.cache
    def trained(kind: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("alone") / "run"
        done = run_one(*train(*arguments(ids, output, *KINDS[kind])))
        assert done.returncode == 0, done.stderr
        found = hashes_of(output)
        assert found["step"] == STEPS
        return found

    return trained


@pytest.mark.parametrize(
    ("kind", "size"),
    [("float32", 2), ("float32", 3), ("float32", 4), ("bfloat16", 3), ("reference", 4)],
)
def test_the_bits_are_the_same_for_any_number_of_processes(
    kind: str, size: int, ids: Path, tmp_path: Path, alone: Callable[[str], dict[str, Any]]
) -> None:
    """Weights, moments, metrics and samples; six micro-batches are no multiple of four."""
    output = tmp_path / "run"
    done = run_mpi(size, *train(*arguments(ids, output, *KINDS[kind])))
    assert done.returncode == 0, done.stderr
    assert hashes_of(output) == alone(kind)
    said = lines_of(done.stderr)
    assert said[0] == f"{size} processes on 1 node, 1 thread each"
    assert sum(line.startswith("data:") for line in said) == 1  # one process speaks
    assert done.stdout.count("held-out samples") == 1
    assert done.stdout.count("RTD AUC") == 1


def test_a_run_goes_on_with_another_number_of_processes(
    ids: Path, tmp_path: Path, alone: Callable[[str], dict[str, Any]]
) -> None:
    """Two processes, then three, then one."""
    output = tmp_path / "run"
    done = run_mpi(2, *train(*arguments(ids, output, *KINDS["float32"]), "--max-steps", "7"))
    assert done.returncode == 0, done.stderr
    resumed = train("--resume", "--output-dir", str(output))
    done = run_mpi(3, *resumed, "--max-steps", "12")
    assert done.returncode == 0, done.stderr
    assert f"resuming {output} at step 7 of 20" in done.stderr
    assert "bits may differ" not in done.stderr
    done = run_one(*resumed)
    assert done.returncode == 0, done.stderr
    assert hashes_of(output) == alone("float32")


def test_fine_tuning_leaves_the_same_bits(tmp_path: Path) -> None:
    """Five steps of four micro-batches, and an evaluation after the last one."""
    model = write_encoder(tmp_path / "model", **SMALLEST)
    files = [str(write_examples(tmp_path / name, "tagging", 20, 0)) for name in ("train", "dev")]
    given = ["--model", str(model), "--task", "tagging", "--train", files[0], "--dev", files[1]]
    given += settings_flags({"batch_size": 4, "accumulate": 4, "epochs": 1, "log_every": 1})
    for size in (1, 2):
        run = ["-m", "electra_ref.finetune", *given, "--output-dir", str(tmp_path / f"{size}")]
        done = run_one(*run) if size == 1 else run_mpi(size, *run)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("step 5: dev ") == 1
    assert hashes_of(tmp_path / "2") == hashes_of(tmp_path / "1")


def broken(
    size: int, rank: int, what: str, ids: Path, tmp_path: Path
) -> tuple[int, list[str], float, Path]:
    """Let ``rank`` do ``what``; return code, lines, seconds until the end, the run's folder."""
    output, mark = tmp_path / "run", tmp_path / "mark"
    given = arguments(ids, output, steps=1000)
    done = run_mpi(size, "-c", BROKEN, str(rank), str(mark), what, *given)
    seconds = time.time() - mark.stat().st_mtime
    return done.returncode, lines_of(done.stderr), seconds, output


@pytest.mark.parametrize(
    ("rank", "what", "code", "message"),
    [
        (0, "raise UserError('planted')", 2, "planted"),
        (2, "raise MemoryError('planted')", 2, "out of memory (planted): begin a run with"),
        (1, "raise RuntimeError('planted')", 1, "RuntimeError: planted"),
        (0, "sys.exit(3)", 3, None),
    ],
)
def test_a_process_that_fails_ends_all(
    rank: int, what: str, code: int, message: str | None, ids: Path, tmp_path: Path
) -> None:
    """It says in one line which it is. The newest checkpoint is whole, and nobody is left."""
    returned, lines, seconds, output = broken(3, rank, what, ids, tmp_path)
    assert returned == code, lines
    assert seconds < ENDED_SECONDS
    ours = [line for line in lines if "error:" in line]
    if message is not None:
        (line,) = ours
        assert line.startswith(f"python -m electra_ref.train: error: process {rank} of 3 on ")
        assert message in line
        assert line == lines[-1]
    assert ("Traceback (most recent call last):" in lines) == (code == 1)
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == 5


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all(rank: int, ids: Path, tmp_path: Path) -> None:
    """The lines are those of the launcher. The lock of the run is free again."""
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    returned, lines, seconds, output = broken(2, rank, kill, ids, tmp_path)
    assert returned in (9, 137)  # of MPICH, of Open MPI
    assert seconds < ENDED_SECONDS
    assert not any("Traceback" in line for line in lines)
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == 5
    resumed = run_one(*train("--resume", "--output-dir", str(output), "--max-steps", "8"))
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.parametrize(
    ("number", "code", "rank"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 1)]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    number: signal.Signals, code: int, rank: int, ids: Path, tmp_path: Path
) -> None:
    """It comes before step 8; the steps of all end there, and a checkpoint is saved."""
    send = f"os.kill(os.getpid(), {int(number)})"
    returned, lines, seconds, output = broken(2, rank, send, ids, tmp_path)
    assert returned == code, lines
    assert seconds < ENDED_SECONDS
    assert "saved at step 8; to go on:" in lines
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == 8
    assert read_records(output / "metrics.jsonl")[-1]["step"] == 8


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_launcher_stops_all_and_saves(
    number: signal.Signals, code: int, ids: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    given = arguments(ids, output, steps=100_000, checkpoint_every=100_000, evaluate_every=99_999)
    process = start_mpi(3, *train(*given))
    wait_for_steps(output, 3)
    process.send_signal(number)
    done = finish(process)
    lines = lines_of(done.stderr)
    assert done.returncode == code, lines
    assert sum("stopping after this step" in line for line in lines) == 1
    last = read_records(output / "metrics.jsonl")[-1]["step"]
    assert f"saved at step {last}; to go on:" in lines
    assert load_newest_checkpoint(output / "checkpoints", warn=pytest.fail).step == last


def wait_for_steps(output: Path, count: int) -> None:
    """Wait until a run has logged ``count`` steps."""
    metrics = output / "metrics.jsonl"
    for _ in range(1000):
        if len(read_records(metrics)) >= count:
            return
        time.sleep(0.05)
    pytest.fail("the run does not begin")


def test_an_error_of_all_is_said_once(ids: Path, tmp_path: Path) -> None:
    """Wrong arguments, wrong data, too few micro-batches: as in one process."""
    output = str(tmp_path / "run")
    for given, message in (
        (["--sett", "a=b"], "unknown argument --sett"),
        (["--tokens", str(ids), "--set", "accumulat=1"], "unknown"),
        (
            ["--corpus", "none.txt", "--output-dir", output, "--set", "accumulate=4"],
            "none.txt",
        ),
        (arguments(ids, tmp_path / "run", accumulate=2), "--set accumulate=3"),
    ):
        done = run_mpi(3, *train(*given))
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in lines_of(done.stderr) if "error:" in line]
        assert line.startswith("python -m electra_ref.train: error: ")
        assert message in line
        assert "process " not in line.partition("error: ")[2].partition(":")[0]
        assert not (tmp_path / "run").exists()


def test_a_loss_that_diverges_is_said_once(ids: Path, tmp_path: Path) -> None:
    given = arguments(ids, tmp_path / "run", learning_rate=1e300, warmup_steps=0)
    done = run_mpi(2, *train(*given))
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in lines_of(done.stderr) if "error:" in line]
    assert "has diverged" in line


def test_processes_that_differ_are_refused(ids: Path, tmp_path: Path) -> None:
    """What one of them would compute with other kernels is not what the others compute."""
    command = train(*arguments(ids, tmp_path / "run"))
    code = (
        "import os, runpy, sys\n"
        "if os.environ['PMI_RANK'] == '1': os.environ['OPENBLAS_CORETYPE'] = 'Haswell'\n"
        "sys.argv = ['train', *sys.argv[1:]]\n"
        "runpy.run_module('electra_ref.train', run_name='__main__')"
    )
    done = run_mpi(2, "-c", code, *command[2:])
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in lines_of(done.stderr) if "error:" in line]
    assert "the processes differ" in line
    assert "Haswell" in line
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []


def test_a_new_run_has_a_micro_batch_for_each_process() -> None:
    done = run_mpi(4, *train("--print-config"))
    assert done.returncode == 0, done.stderr
    assert re.findall("^accumulate = (.*?) *#", done.stdout, re.MULTILINE) == ["4"]


def test_help_is_shown_once() -> None:
    done = run_mpi(3, *train("--help"))
    assert done.returncode == 0
    assert done.stdout.count("usage:") == 1


def test_commands_for_one_process_say_so() -> None:
    done = run_mpi(2, "-m", "electra_ref.evaluate", "--model", "none")
    assert done.returncode == 2
    (line,) = lines_of(done.stderr)
    assert line.endswith("error: it runs in one process: start it without mpiexec")


def test_the_launcher_of_another_mpi_is_recognised() -> None:
    """It starts processes that do not find each other: each believes to be alone."""
    for rank in ("0", "2"):
        done = run_one(
            *train("--print-config"), OMPI_COMM_WORLD_SIZE="3", OMPI_COMM_WORLD_RANK=rank
        )
        assert done.returncode == 2
        lines = lines_of(done.stderr)
        assert len(lines) == (rank == "0")
        assert all("sees only this one: they belong to different MPIs" in line for line in lines)
