"""Pre-train ELECTRA: ``python -m electra_ref.train``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, with a
checkpoint saved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from electra_ref.config import PRESETS, Config, resolve_config, to_toml
from electra_ref.errors import UserError
from electra_ref.freed_memory import keep_freed_memory
from electra_ref.training.progress import Progress, show
from electra_ref.training.run_directory import newest_run
from electra_ref.training.source import Source
from electra_ref.training.stop_signals import StopSignals, exit_code

COMPILING = "compiling kernels for this processor: up to a minute, in the first run only"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        if options.resume:
            refuse_with_resume(options)
            return run(options, config=None)
        config = resolve_config(
            preset=options.preset, path=options.config, settings=settings_of(options)
        )
        if options.print_config:
            show(to_toml(config))
            return 0
        return run(options, config)
    except UserError as error:
        message = str(error)
    except MemoryError as error:  # NumPy's and CuPy's are of this kind
        message = f"out of memory ({error}): raise accumulate, or choose a smaller preset"
    print(f"{parser.prog}: error: {message}", file=sys.stderr)
    return 2


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = argparse.ArgumentParser(
        prog="python -m electra_ref.train",
        description="Pre-train ELECTRA on text or token ids. Without arguments it trains the tiny "
        "preset on the documentation that comes with Python.",
    )
    add = parser.add_argument
    add(
        "--corpus",
        nargs="+",
        metavar="PATH",
        default=[],
        help="files and folders of .txt (blank "
        "line = document), .jsonl (key text), their .gz forms, or - for standard input",
    )
    add(
        "--tokens",
        metavar="FILE.npy",
        help="integer array to train on in place of text: one "
        "stream (1-D), or a document a row (2-D, negative = padding)",
    )
    add(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where the run is kept; default runs/<preset>, runs/<preset>-2, ...",
    )
    add("--preset", choices=list(PRESETS), help="named set of sizes (default: tiny)")
    add(
        "--config",
        type=Path,
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
    add("--device", choices=["auto", "cpu", "gpu", "reference"], help="where to compute")
    add(
        "--precision",
        choices=["auto", "float32", "bfloat16", "float64"],
        help="float type to compute in",
    )
    add("--seed", type=int, metavar="N", help="names every random number of the run")
    add(
        "--max-steps",
        type=int,
        metavar="N",
        help="stop after step N, with a checkpoint; the schedule stays that of the configuration",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the run in --output-dir, or the newest one in runs/",
    )
    add(
        "--print-config",
        action="store_true",
        help="print the resolved configuration as TOML and stop",
    )
    return parser


def settings_of(options: argparse.Namespace) -> list[str]:
    """Return ``--set`` and the arguments that are short for it, as ``key=value``."""
    short = [
        f"{key}={value}"
        for key in ("device", "precision", "seed")
        if (value := getattr(options, key)) is not None
    ]
    return [*options.settings, *short]


def refuse_with_resume(options: argparse.Namespace) -> None:
    """Raise UserError for an argument that would change a run that has already begun."""
    if options.print_config:
        raise UserError(
            "--print-config and --resume exclude each other; see config.toml in the run"
        )
    for name in ("corpus", "tokens", "preset", "config", "settings", "precision", "seed"):
        if getattr(options, name) not in (None, []):
            flag = "set" if name == "settings" else name
            raise UserError(f"--{flag} cannot change a run that is resumed; leave it out")


def run(options: argparse.Namespace, config: Config | None) -> int:
    """Train as ``options`` say, a new run with ``config`` or an old one; return the exit code."""
    if options.max_steps is not None and options.max_steps < 1:
        raise UserError(f"--max-steps {options.max_steps}: at least 1")
    keep_freed_memory()
    progress = Progress()
    with StopSignals() as stop:
        # --help and --print-config need not wait for numba
        from electra_ref.compilation import before_first_compilation  # noqa: PLC0415
        from electra_ref.training import pretraining  # noqa: PLC0415

        try:
            with before_first_compilation(lambda: progress.say(COMPILING)):
                if config is None:
                    path = options.output_dir or newest_run(pretraining.RUNS)
                    trainer = pretraining.resume(path, options.device, progress, stop)
                else:
                    source = source_of(options)
                    trainer = pretraining.begin(options.output_dir, config, source, progress, stop)
                with trainer.run:
                    pretraining.complete(trainer, stop, options.max_steps)
        except pretraining.StoppedError:
            progress.say("stopped before the first step; --resume begins it")
        return 0 if stop.requested is None else exit_code(stop.requested)


def source_of(options: argparse.Namespace) -> Source:
    """Return where the data come from, by absolute paths, so that a resumed run finds them."""
    if options.corpus and options.tokens:
        raise UserError("--corpus and --tokens exclude each other; give one of them")
    if "" in (*options.corpus, options.tokens):
        raise UserError("an empty name stands for no file; check the variable it comes from")
    corpus = [name if name == "-" else os.path.abspath(name) for name in options.corpus]
    return Source(corpus, os.path.abspath(options.tokens) if options.tokens else None)


if __name__ == "__main__":
    sys.exit(main())
