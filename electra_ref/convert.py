"""Convert models: ``python -m electra_ref.convert``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, with
nothing written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from electra_ref.command_line import Parser, reporting, run_command
from electra_ref.errors import UserError
from electra_ref.terminal_text import visible
from electra_ref.training.progress import Progress, show
from electra_ref.training.stop_signals import StopSignals, exit_code

PROGRAM = "python -m electra_ref.convert"
HUGGINGFACE, OURS = "huggingface", "electra-ref"
PARTS = ("discriminator", "generator")


class StoppedError(Exception):
    """A signal asked to stop."""


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    return run_command(parser.prog, lambda: convert(parser.parse(arguments)))


def convert(options: argparse.Namespace) -> int:
    """Do what ``options`` say; return the exit code. Raises UserError."""
    if "" in (options.source, options.target):
        raise UserError("an empty name stands for no folder; check the variable it comes from")
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
        "Write the networks of a run as directories that Hugging Face's transformers loads, or "
        "such a directory as a run.",
    )
    add = parser.add_argument
    add(
        "--from",
        required=True,
        metavar="DIR",
        dest="source",
        help="a run, a checkpoint of it, or a directory with config.json and model.safetensors; "
        "also one with such directories called discriminator and generator",
    )
    add(
        "--to",
        required=True,
        metavar="DIR",
        dest="target",
        help="where to write: a new or empty folder",
    )
    add(
        "--format",
        choices=(HUGGINGFACE, OURS),
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
    from electra_ref.training.huggingface.exporting import export_model  # noqa: PLC0415
    from electra_ref.training.huggingface.importing import import_model  # noqa: PLC0415
    from electra_ref.training.huggingface.model_card import loading_lines  # noqa: PLC0415
    from electra_ref.training.huggingface.opening import is_huggingface  # noqa: PLC0415

    def check() -> None:
        if stop.requested is not None:
            raise StoppedError

    source, target, part = Path(options.source), Path(options.target), options.part
    theirs = is_huggingface(source)
    wanted = options.format or (OURS if theirs else HUGGINGFACE)
    if wanted == OURS:
        if not theirs:
            raise UserError(
                f"{source} holds no model in the Hugging Face format (config.json); a run of "
                "electra_ref needs no conversion to be read"
            )
        done = import_model(source, target, part, check)
        for note in done.notes:
            progress.say(note)
        name = shlex.quote(str(done.path))
        task = "rtd" if "discriminator" in done.parts else "mlm"
        return [
            f"{done.path}: a run at step 0 with {' and '.join(done.parts)}, {done.parameters:,} "
            "parameters; to train on, or to use it:",
            f"python -m electra_ref.train --init-from {name} --corpus FILE",
            f"python -m electra_ref.predict --model {name} --task {task}",
        ]
    written = export_model(source, target, part, check)
    lines = [
        f"{each.path}: {each.part}, {each.parameters:,} parameters, step {each.step:,}"
        for each in written
    ]
    return [*lines, "to load it in Python:", *loading_lines(str(written[0].path), written[0].part)]


if __name__ == "__main__":
    sys.exit(main())
