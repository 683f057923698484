"""What the commands share: the arguments that name data and fill a configuration."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from electra_ref import __version__
from electra_ref.config.settings import OTHER_NAMES, Presets, Settings
from electra_ref.config.training import DEVICES, PRECISIONS
from electra_ref.errors import UserError
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.process import threads_set
from electra_ref.processes import ALONE, Processes, describe, usable_cores
from electra_ref.text.reading import Reading
from electra_ref.training.pretraining.source import Source
from electra_ref.training.progress import Progress, show
from electra_ref.training.stop_signals import StopSignals

COMPILING = "compiling kernels for this processor: up to a minute, the first time they are needed"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are lines for people, with ``--version`` and without abbreviations."""

    def __init__(self, program: str, description: str, table: type[Settings] | None = None) -> None:
        """``table`` has the settings that ``--set`` may name, None where there is no ``--set``."""
        super().__init__(prog=program, description=description, allow_abbrev=False)
        self._table = table
        self.add_argument("--version", action="version", version=f"electra_ref {__version__}")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the parsed arguments. Raises UserError where argparse would print and exit."""
        given = sys.argv[1:] if arguments is None else arguments
        options, unknown = self.parse_known_args(given)
        if unknown:
            raise UserError(self._unknown(unknown[0]))
        self._require_once(given)
        return options

    def _require_once(self, arguments: Sequence[str]) -> None:
        """Raise UserError for a flag with one value that is given twice: which one is meant?"""
        for action in self._actions:
            given = [each for each in arguments if each.partition("=")[0] in action.option_strings]
            has_one_value = action.nargs is None and not isinstance(action.default, list)
            if has_one_value and len(given) > 1:
                raise UserError(f"{given[0].partition('=')[0]} is given twice: name one value")

    def error(self, message: str) -> NoReturn:
        """Raise UserError with what argparse says."""
        raise UserError(f"{message}; --help lists all arguments")

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002
        """Print help or the version. Raises ReaderGoneError where argparse would go on."""
        show(message)

    def _unknown(self, argument: str) -> str:
        flag, _, value = argument.partition("=")
        key = flag.lstrip("-").replace("-", "_")
        if not flag.startswith("--"):
            return f"{argument} belongs to no argument; --help lists all arguments"
        if self._table is not None:
            if key in {field.name for field in dataclasses.fields(self._table)}:
                return f"unknown argument {flag}; write --set {key}={value or 'VALUE'}"
            if (other := OTHER_NAMES.get(key)) is not None:
                return f"unknown argument {flag}; write --set {other}=VALUE"
        flags = [name for action in self._actions for name in action.option_strings]
        if near := difflib.get_close_matches(flag, flags, n=1, cutoff=0.75):
            return f"unknown argument {flag}; the nearest one is {near[0]}"
        return f"unknown argument {flag}; --help lists all arguments"


@contextmanager
def reporting(
    unit: str = "this step", processes: Processes = ALONE
) -> Iterator[tuple[Progress, StopSignals]]:
    """Catch signals for the block, and say when a kernel is compiled; give what it reports with.

    ``unit`` names what is completed after a signal. Of several ``processes`` the first one reports.
    """
    # --help and --print-config need not wait for numba
    from electra_ref.compilation import before_first_compilation  # noqa: PLC0415

    keep_freed_memory()
    is_silent = processes.rank > 0
    progress = Progress(sys.stdout if is_silent else None)  # see ``running.run_together``
    if processes.size > 1:
        processes.meet()  # one may have loaded its modules earlier: an error is to come from all
        progress.say(describe(processes, threads_set()))
    with (
        StopSignals(unit, is_silent=is_silent) as stop,
        before_first_compilation(lambda: progress.say(COMPILING)),
    ):
        yield progress, stop


def folder(name: str) -> Path:
    """Return the path of an argument. Raises UserError if it is empty."""
    return Path(_require_name(name, "folder"))


def file(name: str) -> Path:
    """Return the path of an argument. Raises UserError if it is empty."""
    return Path(file_name(name))


def file_name(name: str) -> str:
    """Return an argument that names a file, or is "-". Raises UserError if it is empty."""
    return _require_name(name, "file")


def _require_name(name: str, kind: str) -> str:
    if not name:
        raise UserError(f"an empty name stands for no {kind}; check the variable it comes from")
    return name


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name text or token ids: see ``source_of``."""
    add = parser.add_argument
    add(
        "--corpus",
        action="extend",
        type=file_name,
        nargs="+",
        metavar="PATH",
        default=[],
        help="files and folders of text (.txt, .text; named directly also .md or no ending; blank "
        "line = document) or JSON lines (.jsonl; named directly also .json; object = document), "
        "also compressed (.gz, .bz2, .xz, .zst), or tables (.parquet; row = document), or - for "
        "standard input",
    )
    add(
        "--text-key",
        metavar="KEY",
        help="key of the text in JSON lines, column of it in .parquet (default: text)",
    )
    add(
        "--tokens",
        action="extend",
        type=file_name,
        nargs="+",
        metavar="FILE.npy",
        default=[],
        help="integer arrays to train on in place of text, each one "
        "stream (1-D), or a document a row (2-D, negative = padding)",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that tokenize a large corpus (default: one for each processor that may be "
        "used); the result does not depend on it",
    )
    add(
        "--verify",
        action="store_true",
        help="read all tokens in the cache and compare them with their SHA-256 before they are "
        "used, and hash the corpus even if no file has a new date; otherwise only sizes are "
        "compared",
    )


def source_of(options: argparse.Namespace) -> Source:
    """Return where the data come from, by absolute paths, so that a resumed run finds them.

    Raises UserError.
    """
    if options.corpus and options.tokens:
        raise UserError("--corpus and --tokens exclude each other; give one of them")
    if options.text_key is not None and not options.corpus:
        raise UserError(
            "--text-key names a key of JSON lines or a column; name the files with --corpus"
        )
    corpus = [name if name == "-" else os.path.abspath(name) for name in options.corpus]
    tokens = [os.path.abspath(name) for name in options.tokens]
    return Source(corpus, tokens, "text" if options.text_key is None else options.text_key)


def reading_of(options: argparse.Namespace) -> Reading:
    """Return how the data are read. Raises UserError."""
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: at least 1")
    return Reading(options.workers or len(usable_cores()), options.verify)


def add_settings_arguments(parser: argparse.ArgumentParser, presets: Presets | None = None) -> None:
    """Add the arguments that fill a configuration, and ``--print-config``."""
    add = parser.add_argument
    if presets:
        add("--preset", choices=list(presets), help="named set of sizes (default: tiny)")
    add(
        "--config",
        type=file,
        metavar="FILE.toml",
        help="configuration file, as --print-config prints it",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="one configuration value; may be repeated",
    )
    add("--device", choices=DEVICES, help="where to compute")
    add("--precision", choices=PRECISIONS, help="float type to compute in")
    add("--seed", type=int, metavar="N", help="names every random number of the run")
    add(
        "--print-config",
        action="store_true",
        help="print the resolved configuration as TOML and stop",
    )


def settings_of(options: argparse.Namespace) -> list[str]:
    """Return ``--set`` and the arguments that are short for it, as ``key=value``."""
    short = [
        f"{key}={value}"
        for key in ("device", "precision", "seed")
        if (value := getattr(options, key)) is not None
    ]
    return [*options.settings, *short]
