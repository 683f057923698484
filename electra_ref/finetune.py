"""Fine-tune a model for a task: ``python -m electra_ref.finetune``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, with a
checkpoint saved.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from electra_ref.command_line import (
    Parser,
    add_settings_arguments,
    file_name,
    folder,
    reporting,
    settings_of,
)
from electra_ref.config.finetuning import FORMS, FinetuningConfig
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, Processes
from electra_ref.running import run_together
from electra_ref.terminal_text import visible
from electra_ref.training.finetuning.kinds import GLUE, KINDS
from electra_ref.training.progress import Progress, show
from electra_ref.training.stop_signals import StopSignals, exit_code

PROGRAM = "python -m electra_ref.finetune"


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    if_too_large = "begin with a larger accumulate or a smaller max_length"
    return run_together(
        parser.prog,
        lambda processes: finetune(parser.parse(arguments), processes),
        if_too_large,
    )


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = Parser(
        program,
        "Fine-tune the encoder of a model, and a head on it, with labelled data. Without arguments "
        "it takes the newest run in runs/ and learns to tell which package a sentence of the "
        "installed documentation comes from, beside three simpler ways to tell.",
        FinetuningConfig,
    )
    add = parser.add_argument
    kinds = "; ".join(f"{name}: {purpose}" for name, purpose in KINDS.items())
    add(
        "--model",
        type=folder,
        metavar="DIR",
        help="what to begin with: a run, a checkpoint of it, or a directory in the Hugging Face "
        "format; its generator is dropped, and its head unless it is for the same task and labels "
        "(default: the newest run in runs/)",
    )
    add("--task", choices=list(KINDS), help=kinds)
    add(
        "--glue",
        choices=list(GLUE),
        metavar="NAME",
        help=f"the files are those of GLUE, as they are shipped: {', '.join(GLUE)}",
    )
    add(
        "--train",
        type=file_name,
        metavar="FILE",
        help="labelled data to learn from, also compressed",
    )
    add("--dev", type=file_name, metavar="FILE", help="labelled data that the scores are of")
    add(
        "--output-dir",
        type=folder,
        metavar="DIR",
        help="where the run is kept; default runs/<task>, runs/<task>-2, ...",
    )
    add("--epochs", type=float, metavar="N", help="how often the training data are read")
    add("--head", choices=FORMS, help="huggingface: the head of its classes, to export the model")
    add(
        "--from-scratch",
        action="store_true",
        help="begin with random numbers as the model itself did, for comparison",
    )
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, print mean, median and standard deviation, keep the best model",
    )
    add_settings_arguments(parser)
    add("--max-steps", type=int, metavar="N", help="stop after step N, with a checkpoint")
    add(
        "--max-minutes",
        type=float,
        metavar="N",
        help="stop N minutes after the start of the command",
    )
    add(
        "--resume",
        action="store_true",
        help="continue what is in --output-dir, a run or one for each seed, or the newest of both "
        "in runs/; --set may then change steps, learning rate, warm-up, intervals and device; "
        "--model, --train and --dev name where the same model and data lie now",
    )
    return parser


def finetune(options: argparse.Namespace, processes: Processes = ALONE) -> int:
    """Do what ``options`` say, in each of the ``processes``; return the exit code.

    Raises UserError.
    """
    _check_limits(options)
    if options.resume:
        _refuse_with_resume(options)
        return _resumed(options, processes)
    kind = _kind_of(options)
    if kind is None:
        return _compared(options, processes)
    if options.print_config:
        return _printed(options, kind, processes)
    if not options.train or not options.dev:
        missing = "--dev" if options.train else "--train"
        raise UserError(f"{missing} names no file; give a file to learn from and one to be scored")
    return _trained(options, kind, processes)


def _check_limits(options: argparse.Namespace) -> None:
    for flag, value in (("--seeds", options.seeds), ("--max-steps", options.max_steps)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value}: at least 1")
    if options.max_minutes is not None and not 0 < options.max_minutes < math.inf:
        raise UserError(f"--max-minutes {options.max_minutes:g}: a number above 0")
    if "-" in (options.train, options.dev):
        raise UserError("labelled data are read from files, not from standard input: name a file")


def _refuse_with_resume(options: argparse.Namespace) -> None:
    for name in (
        "task", "glue", "epochs", "head", "seeds", "config", "precision", "seed",
    ):  # fmt: skip
        if getattr(options, name) is not None:
            raise UserError(f"--{name} cannot change a run that is resumed; leave it out")
    if options.from_scratch or options.print_config:
        flag = "--from-scratch" if options.from_scratch else "--print-config"
        raise UserError(f"{flag} and --resume exclude each other")


def _kind_of(options: argparse.Namespace) -> str | None:
    """Return the kind of task, None if nothing was asked for. Raises UserError."""
    if options.glue is not None:
        kind = GLUE[options.glue]
        if options.task not in (None, kind):
            raise UserError(f"--glue {options.glue} is a task of --task {kind}: leave --task out")
        return kind
    if options.task is None and (options.train or options.dev or options.print_config):
        raise UserError(f"--task names no kind of task; there are: {', '.join(KINDS)}")
    kind = options.task
    return kind if kind is None else str(kind)


def _given(options: argparse.Namespace) -> list[str]:
    """Return all settings of the command line as ``key=value``."""
    given = settings_of(options)
    for key in ("glue", "epochs", "head"):
        if getattr(options, key) is not None:
            given.append(f"{key}={getattr(options, key)}")
    if options.from_scratch:
        given.append("from_scratch=true")
    return given


def _printed(options: argparse.Namespace, kind: str, processes: Processes) -> int:
    """Print the settings of a new run; steps follow from the data, which are not read here."""
    from electra_ref.training.finetuning import session  # noqa: PLC0415  (loads numba)

    encoder = session.encoder_at(options.model, Progress(), processes)
    settings = session.new_settings(kind, encoder, options.config, _given(options), processes.size)
    show(to_toml(settings))
    return 0


def _limits(options: argparse.Namespace, session: Any) -> Any:
    return session.Limits(options.max_steps, options.max_minutes, time.monotonic())


def _closed(ended: Any, progress: Progress, stop: StopSignals, processes: Processes) -> int:
    """Print the scores of what has ended, and the command that uses the model."""
    progress.close()
    stop.agree(processes)
    if ended is None:
        return 0 if stop.requested is None else exit_code(stop.requested)
    show("".join(f"{visible(line)}\n" for line in ended.lines))
    return 0


def _trained(options: argparse.Namespace, kind: str, processes: Processes) -> int:
    """Train on the files that ``options`` name, with one seed or several; return the exit code."""
    from electra_ref.training.finetuning import session  # noqa: PLC0415  (loads numba)
    from electra_ref.training.finetuning.run import Files  # noqa: PLC0415

    with reporting(processes=processes) as (progress, stop):
        limits = _limits(options, session)
        encoder = session.encoder_at(options.model, progress, processes)
        settings = session.new_settings(
            kind, encoder, options.config, _given(options), processes.size
        )
        files = Files(str(encoder.path), *map(os.path.abspath, (options.train, options.dev)))
        ended = session.train_new(
            options.output_dir, settings, files, encoder, options.seeds, limits, progress, stop,
            processes,
        )  # fmt: skip
        return _closed(ended, progress, stop, processes)


def _resumed(options: argparse.Namespace, processes: Processes) -> int:
    from electra_ref.training.finetuning import session  # noqa: PLC0415  (loads numba)

    with reporting(processes=processes) as (progress, stop):
        limits, given = _limits(options, session), settings_of(options)
        moved = {
            name: os.path.abspath(path)
            for name in ("model", "train", "dev")
            if (path := getattr(options, name)) is not None
        }
        ended = session.train_on(
            options.output_dir, given, moved, limits, progress, stop, processes
        )
        return _closed(ended, progress, stop, processes)


def _compared(options: argparse.Namespace, processes: Processes) -> int:
    """Show on the embedded task what pre-training was good for; return the exit code."""
    from electra_ref.training.finetuning import embedded, session  # noqa: PLC0415  (loads numba)

    with reporting(processes=processes) as (progress, stop):
        limits = _limits(options, session)
        encoder = session.encoder_at(options.model, progress, processes)
        lines = embedded.compare(
            encoder, options.config, _given(options), options.output_dir, options.seeds, limits,
            progress, stop, processes,
        )  # fmt: skip
        stop.agree(processes)
        if stop.requested is not None:
            return exit_code(stop.requested)
    show("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
