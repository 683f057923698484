"""What benchmarks print: where figures come from, a table, one JSON line; and how they end."""

from __future__ import annotations

import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from electra_ref.errors import ReaderGoneError, UserError
from electra_ref.training.environment import describe_environment
from electra_ref.training.progress import drop_output, show
from electra_ref.training.stop_signals import exit_code

CHECKOUT = Path(__file__).resolve().parent.parent


def origin(packages: Iterable[str]) -> dict[str, Any]:
    """Return what figures depend on: machine, versions, commit.

    ``packages`` are the distributions whose versions matter; a missing one is "not installed".
    """
    environment = describe_environment(device="cpu", precision="float32", backend="reference")
    fingerprint = environment["fingerprint"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": fingerprint["cpu"],
        "cores": fingerprint["cores"],
        "memory_gigabytes": round(memory / 1e9, 1),
        "system": environment["system"],
        "python": environment["python"],
        "blas": fingerprint["blas"],
        "packages": {package: _version(package) for package in packages},
    }


def commit() -> str | None:
    """Return the commit of this checkout, followed by "-dirty" if a file of it has changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or no checkout
    return done.stdout.strip()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return minimum, median and maximum of at least one value."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def print_origin(where_from: dict[str, Any]) -> None:
    """Print what ``origin`` returned, for people."""
    packages = ", ".join(f"{name} {number}" for name, number in where_from["packages"].items())
    blas = " ".join(where_from["blas"].get(key, "") for key in ("name", "version"))
    print(f"{where_from['date']}, commit {where_from['commit']}")
    print(
        f"{where_from['processor']}, {where_from['cores']} cores, "
        f"{where_from['memory_gigabytes']} GB, {where_from['system']}"
    )
    print(f"python {where_from['python']}, {packages}, BLAS {blas}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print header and rows; the first column is aligned left, the others right."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *cells in table:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *aligned]))


def print_summary(summary: dict[str, Any]) -> None:
    """Print the JSON object for programs; nothing may be printed after it."""
    print(json.dumps(summary, allow_nan=False), flush=True)


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8") from None


def exit_code_of(name: str, work: Callable[[], Sequence[str]]) -> int:
    """Do ``work`` of a benchmark that goes on when it is started again; return its exit code.

    ``work`` returns what failed. The code is 0 if nothing did, 1 if something did, 2 after a
    UserError, 130 after SIGINT; each but the first comes with a line on stderr. It is 141, without
    a line, if the reader of standard output went away.
    """
    try:
        failures = work()
        show("")  # writes what was printed: a reader that went away is noticed here
    except UserError as error:
        print(f"benchmarks.{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"benchmarks.{name}: stopped; the same command goes on", file=sys.stderr)
        return 130
    except (BrokenPipeError, ReaderGoneError):
        drop_output()
        return exit_code(signal.SIGPIPE)
    for failure in failures:
        print(f"benchmarks.{name}: error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
