"""Convert models: ``python -m electra_ref.convert``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, with
nothing written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from electra_ref.command_line import Parser, folder, reporting
from electra_ref.running import run_command
from electra_ref.terminal_text import visible
from electra_ref.training.progress import Progress, show
from electra_ref.training.stop_signals import StoppedError, StopSignals, exit_code

PROGRAM = "python -m electra_ref.convert"
FORMATS = ("huggingface", "electra-ref")
PARTS = ("discriminator", "generator")


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    return run_command(parser.prog, lambda: convert(parser.parse(arguments)))


def convert(options: argparse.Namespace) -> int:
    """Do what ``options`` say; return the exit code. Raises UserError."""
    with reporting() as (progress, stop):
        try:
            lines = _convert(options, progress, stop)
        except StoppedError:
            progress.say("stopped; nothing was written")
            return 0 if stop.requested is None else exit_code(stop.requested)
    show("".join(f"{visible(line)}\n" for line in lines))
    return 0


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = Parser(
        program,
        "Write the networks of a run, or a fine-tuned model, as directories that Hugging Face's "
        "transformers loads, or such a directory as a run.",
    )
    add = parser.add_argument
    add(
        "--from",
        type=folder,
        required=True,
        metavar="DIR",
        dest="source",
        help="a run of train or finetune, a checkpoint of it, or a directory with config.json and "
        "model.safetensors; also one with such directories called discriminator and generator",
    )
    add(
        "--to",
        type=folder,
        required=True,
        metavar="DIR",
        dest="target",
        help="where to write: a new or empty folder",
    )
    add(
        "--format",
        choices=FORMATS,
        help="what to write; default: huggingface from a run, electra-ref from a directory in the "
        "Hugging Face format",
    )
    add(
        "--part",
        choices=PARTS,
        help="write this network only, in the Hugging Face format to --to itself; default: all "
        "that there are, to the folders discriminator and generator in it",
    )
    return parser


def _convert(options: argparse.Namespace, progress: Progress, stop: StopSignals) -> list[str]:
    """Write what is asked for; return the lines to print."""
    # --help need not wait for NumPy and SciPy
    from electra_ref.training.huggingface.conversion import convert_model  # noqa: PLC0415

    def check() -> None:
        if stop.requested is not None:
            raise StoppedError

    return convert_model(
        options.source, options.target, options.format, options.part, progress.say, check
    )


if __name__ == "__main__":
    sys.exit(main())
