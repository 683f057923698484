"""Evaluate a saved model: ``python -m electra_ref.evaluate``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence

from electra_ref.command_line import (
    Parser,
    add_data_arguments,
    folder,
    reading_of,
    reporting,
    source_of,
)
from electra_ref.config.training import DEVICES, PRECISIONS
from electra_ref.errors import UserError
from electra_ref.running import run_command
from electra_ref.training.progress import show
from electra_ref.training.stop_signals import StoppedError, exit_code

PROGRAM = "python -m electra_ref.evaluate"


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    return run_command(parser.prog, lambda: evaluate(parser.parse(arguments)))


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = Parser(
        program,
        "Mask rows, let the model guess and detect, and print the figures as one JSON object. "
        "Without --corpus and --tokens the rows are those that the model's run holds out, and the "
        "figures those that it has logged.",
    )
    add = parser.add_argument
    add(
        "--model",
        type=folder,
        required=True,
        metavar="DIR",
        help="run directory, a checkpoint in it, or a directory in the Hugging Face format",
    )
    add_data_arguments(parser)
    add(
        "--batches",
        type=int,
        metavar="N",
        help="batches to read at most (default: evaluation_batches of the run)",
    )
    add("--device", choices=DEVICES, help="where to compute (default: as the run)")
    add("--precision", choices=PRECISIONS, help="float type to compute in (default: as the run)")
    return parser


def evaluate(options: argparse.Namespace) -> int:
    """Do what ``options`` say; return the exit code. Raises UserError."""
    if options.batches is not None and options.batches < 1:
        raise UserError(f"--batches {options.batches}: at least 1")
    source, reading = source_of(options), reading_of(options)
    from electra_ref.training.pretraining import evaluation  # noqa: PLC0415  (loads numba)

    named = source if options.corpus or options.tokens else None
    with reporting("this batch") as (progress, stop):
        try:
            figures = evaluation.evaluate(
                options.model,
                named,
                options.batches,
                options.device,
                options.precision,
                progress,
                stop,
                reading,
            )
        except StoppedError:
            return exit_code(stop.requested or signal.SIGINT)
    show(json.dumps(figures, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
