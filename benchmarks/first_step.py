"""Time from ``python -m electra_ref.train`` to the end of its first step, and of the import.

    python -m benchmarks.first_step [--preset NAME] [--precision NAME] [--set KEY=VALUE ...]
        [--corpus PATH ...] [--warm N]

Every figure is that of a new process. The first run has empty caches: it prepares the data and
compiles the kernels. The ``--warm`` runs after it use the caches that it filled. The first step has
ended when its line is in metrics.jsonl. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import CHECKOUT, origin, print_origin, print_summary, print_table, spread
from electra_ref.errors import UserError

IMPORT = (
    "import time; start = time.perf_counter(); import electra_ref; "
    "print(time.perf_counter() - start)"
)
SECONDS_BETWEEN_LOOKS = 0.01


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.warm < 1:
            raise UserError(f"--warm {options.warm}: at least 1")
        figures = measure(training_arguments(options), options.warm)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    where_from = origin(("numpy", "numba", "llvmlite"))
    print_origin(where_from)
    rows = [(name, *seconds_of(values)) for name, values in figures.items()]
    print_table(("seconds", "fastest", "median", "slowest"), rows)
    print_summary(
        {
            "benchmark": "first_step",
            "arguments": training_arguments(options),
            "seconds": {name: spread(values) for name, values in figures.items()},
            "all_seconds": figures,
            "machine": where_from,
        }
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_step", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--preset", default="tiny", help="default: %(default)s")
    parser.add_argument("--precision", default="auto", help="default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--corpus", nargs="+", default=[], metavar="PATH")
    parser.add_argument("--warm", type=int, default=5, metavar="N", help="default: %(default)s")
    return parser


def training_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of the training command, without its output folder."""
    arguments = ["--device", "cpu", "--preset", options.preset, "--precision", options.precision]
    for setting in (*options.settings, "log_every=1"):
        arguments += ["--set", setting]
    corpus = ["--corpus", *map(os.path.abspath, options.corpus)] if options.corpus else []
    return [*arguments, "--max-steps", "1", *corpus]


def measure(arguments: list[str], warm: int) -> dict[str, list[float]]:
    """Return the seconds of one run with empty caches, ``warm`` runs after it, and imports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "NUMBA_CACHE_DIR": str(folder / "kernels"),
            "XDG_CACHE_HOME": str(folder / "data"),
        }
        runs = [
            seconds_to_first_step(arguments, folder / f"run-{number}", environment)
            for number in range(1 + warm)
        ]
        imports = [seconds_to_import(environment) for _ in range(warm)]
    return {"empty caches": runs[:1], "full caches": runs[1:], "import electra_ref": imports}


def seconds_to_first_step(arguments: list[str], output: Path, environment: dict[str, str]) -> float:
    """Start the training command, wait for its first step, then for its end; return the seconds.

    Raises UserError with the last line of the command if it fails.
    """
    metrics, messages = output / "metrics.jsonl", output.with_suffix(".log")
    command = [sys.executable, "-m", "electra_ref.train", *arguments, "--output-dir", str(output)]
    with messages.open("w") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=output.parent, stdout=subprocess.DEVNULL, stderr=log
        )
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - start
        if process.wait() != 0:
            raise UserError((messages.read_text().splitlines() or ["the run failed"])[-1])
    return seconds


def seconds_to_import(environment: dict[str, str]) -> float:
    """Return how long ``import electra_ref`` takes in a new interpreter."""
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def seconds_of(values: Sequence[float]) -> list[str]:
    """Return minimum, median and maximum of ``values`` as text for the table."""
    return [f"{value:.3f}" for value in spread(values).values()]


if __name__ == "__main__":
    sys.exit(main())
