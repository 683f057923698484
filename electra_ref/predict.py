"""Use a trained model on texts: ``python -m electra_ref.predict``; ``--help`` lists the arguments.

Exit codes: 0 done, 2 wrong input (one line says what), 130 or 143 after SIGINT or SIGTERM, 141 if
the reader of standard output went away. Standard output then has whole lines only, and a file of
--output is not there.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from electra_ref.command_line import Parser, folder, reporting
from electra_ref.config.training import DEVICES, PRECISIONS
from electra_ref.errors import UserError
from electra_ref.running import run_command
from electra_ref.training.finetuning.kinds import KINDS, SETTABLE
from electra_ref.training.prediction.table import TASKS
from electra_ref.training.progress import wants_colour
from electra_ref.training.stop_signals import StoppedError, exit_code

if TYPE_CHECKING:
    from electra_ref.training.prediction.source import Source
    from electra_ref.training.prediction.view import Style
    from electra_ref.training.progress import Progress

PROGRAM = "python -m electra_ref.predict"
BATCH_TOKENS = 4096
TOP_K = 5

DESCRIPTION = """\
Say which tokens of each line were probably replaced (rtd), or what fills each [MASK] (mlm), or do
the task that a model was fine-tuned for.

Of rtd and mlm, every line of the input has one line of JSON in the output, in the same order:
  rtd  {"tokens": [...], "ids": [...], "offsets": [[start, end], ...], "logits": [...]}
       a token each, [CLS] and [SEP] included (offset null); a positive logit means replaced
  mlm  {"masks": [{"offset": [start, end], "fillings": [{"token", "id", "probability"}, ...]},
       ...], "filled": the text with the best fillings}
Offsets count characters of the text, in which an invalid byte is one character. A text that is
longer than the model reads is cut into overlapping windows; every token is answered, where it has
the most context.

Lines are text, or JSON objects: {"text": ..., "text_pair": ..., "id": ...}. Of a pair, "texts"
(rtd) or "text" (mlm) tells which text an offset is of. An id is repeated in the answer; other keys
are passed over. A model that was trained on token ids reads {"ids": [...]}; a mask is "[MASK]".

A fine-tuned model reads files as those it learned from, with labels or without, and writes a line
of JSON for each record: label and probabilities, a number, tags and spans, an answer, a choice.
"""


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    return run_command(parser.prog, lambda: predict(parser.parse(arguments)))


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser; its help is what a newcomer reads first."""
    parser = Parser(program, DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    settable = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in SETTABLE.items())
    asked = "; ".join(f"{name}: {question}" for name, question in TASKS.items())
    add(
        "--model",
        type=folder,
        required=True,
        metavar="DIR",
        help="run directory, a checkpoint in it, or a directory in the Hugging Face format",
    )
    add(
        "--task",
        choices=[*TASKS, *KINDS],
        help=f"{asked}; of a fine-tuned model, the kind it was trained for (default)",
    )
    add(
        "--input",
        default="-",
        metavar="FILE",
        help="lines to read, also compressed (.gz, .bz2, .xz, .zst); default: - for standard input",
    )
    add(
        "--input-format",
        choices=("text", "jsonl"),
        help="default: jsonl if the name ends in .jsonl or .json, otherwise text",
    )
    add(
        "--output",
        default="-",
        metavar="FILE",
        help="file to write, which appears when all is answered; default: - for standard output",
    )
    add(
        "--format",
        metavar="NAME",
        help="json: JSON lines; view: lines to look at (rtd and mlm, the default on a terminal); "
        "glue, conll, squad and others: the files that tasks are handed in as",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help=f"fine-tuned models: how the input is read and answered; may be repeated; {settable}",
    )
    add(
        "--top-k",
        type=int,
        metavar="N",
        help=f"mlm: fillings of each mask (default: {TOP_K}); special tokens are no fillings",
    )
    add(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens that are read at once, [CLS] and [SEP] included (default: as in training)",
    )
    add(
        "--stride",
        type=int,
        metavar="N",
        help="tokens by which a window of a longer text moves on, at most (default: half of it)",
    )
    add(
        "--batch-tokens",
        type=int,
        default=BATCH_TOKENS,
        metavar="N",
        help=f"tokens of a batch, with padding (default: {BATCH_TOKENS}); fewer need less memory",
    )
    add("--device", choices=DEVICES, default="auto", help="where to compute")
    add("--precision", choices=PRECISIONS, default="auto", help="float type to compute in")
    return parser


def predict(options: argparse.Namespace) -> int:
    """Do what ``options`` say; return the exit code. Raises UserError."""
    top_k = TOP_K if options.top_k is None else options.top_k
    for flag, value in (("--top-k", top_k), ("--batch-tokens", options.batch_tokens)):
        if value < 1:
            raise UserError(f"{flag} {value}: at least 1")
    if options.top_k is not None and options.task != "mlm":
        raise UserError("--top-k counts the fillings of --task mlm: leave it out")
    if options.task in TASKS:
        if options.format not in (None, "json", "view"):
            raise UserError(f"--format {options.format}: --task {options.task} has json and view")
        if options.settings:
            raise UserError(f"--set belongs to fine-tuned models: --task {options.task} has none")
        return _answer_tokens(options, top_k)
    return _answer_records(options)


def _answer_records(options: argparse.Namespace) -> int:
    """Answer by a fine-tuned model; return the exit code. Raises UserError."""
    from electra_ref.training.finetuning import prediction  # noqa: PLC0415  (loads numba)
    from electra_ref.training.finetuning.saved import holds_fine_tuned  # noqa: PLC0415
    from electra_ref.training.prediction.destination import open_destination  # noqa: PLC0415
    from electra_ref.training.prediction.source import open_source  # noqa: PLC0415
    from electra_ref.training.saved_model import find_model  # noqa: PLC0415  (loads numba)

    if options.task is None and not holds_fine_tuned(options.model):
        find_model(options.model)  # raises UserError if there is none
        raise UserError(f"--task: what shall be answered? There are: {', '.join(TASKS)}")
    if options.stride is not None or options.input_format is not None:
        flag = "--stride" if options.stride is not None else "--input-format"
        raise UserError(f"{flag} belongs to rtd and mlm; --set has what this task reads by")
    given = [*options.settings]
    if options.max_length is not None:
        given.append(f"max_length={options.max_length}")
    form = options.format or prediction.JSON
    with (
        open_source(options.input, "jsonl") as source,  # the task decides how it is read
        reporting("this batch") as (progress, stop),
    ):
        try:
            opened = prediction.open_fine_tuned(
                options.model, options.task, options.device, options.precision, given, progress.say
            )
            prediction.check_form(opened, form)
            with open_destination(options.output, source) as destination:
                progress.say(opened.description)
                _say_how_to_type(source, progress)
                started = time.monotonic()
                counted = prediction.predict(
                    opened, source, destination, form, options.batch_tokens, stop, progress
                )
        except StoppedError:
            return exit_code(stop.requested or signal.SIGINT)
        except MemoryError as error:
            raise UserError(f"out of memory ({error}): choose a smaller --batch-tokens") from error
        finally:
            progress.close()
        for line in (*counted.lines, counted.summary(time.monotonic() - started)):
            progress.say(line)
    return 0


def _answer_tokens(options: argparse.Namespace, top_k: int) -> int:
    """Answer by a pre-trained model; return the exit code. Raises UserError."""
    from electra_ref.training.prediction import run  # noqa: PLC0415  (loads numba)
    from electra_ref.training.prediction.destination import open_destination  # noqa: PLC0415
    from electra_ref.training.prediction.predictor import (  # noqa: PLC0415
        Options,
        check_input,
        open_predictor,
    )
    from electra_ref.training.prediction.source import open_source  # noqa: PLC0415

    asked = Options(options.task, options.max_length, options.stride, options.batch_tokens, top_k)
    with (
        open_source(options.input, options.input_format) as source,
        reporting("this batch") as (progress, stop),
    ):
        try:
            with open_destination(options.output, source) as destination:
                predictor = open_predictor(options.model, options.device, options.precision, asked)
                check_input(predictor, source)
                progress.say(predictor.description)
                _say_how_to_type(source, progress)
                started = time.monotonic()
                bar = None if answers_to_terminal(options) else progress
                counts = run.predict(predictor, source, destination, style_of(options), stop, bar)
        except StoppedError:
            return exit_code(stop.requested or signal.SIGINT)
        except MemoryError as error:
            raise UserError(f"out of memory ({error}): choose a smaller --batch-tokens") from error
        finally:
            progress.close()
        for note in counts.notes(source.conversion()):
            progress.say(f"note: {note}")
        is_mlm = options.task == "mlm"
        progress.say(counts.summary(time.monotonic() - started, counts_masks=is_mlm))
    return 0


def _say_how_to_type(source: Source, progress: Progress) -> None:
    if source.is_terminal:
        progress.say("type a line and press Enter; Ctrl-D ends")


def style_of(options: argparse.Namespace) -> Style | None:
    """Return how the answers look on a terminal, None for JSON."""
    if options.format == "json":
        return None
    is_terminal = answers_to_terminal(options)
    if options.format is None and not is_terminal:
        return None
    from electra_ref.training.prediction.view import Style  # noqa: PLC0415  (loads NumPy)

    columns, colour = shutil.get_terminal_size().columns, is_terminal and wants_colour(sys.stdout)
    return Style(columns, colour, sys.stdout.encoding if is_terminal else "utf-8")


def answers_to_terminal(options: argparse.Namespace) -> bool:
    """Return whether the answers appear on a terminal."""
    return options.output == "-" and sys.stdout.isatty()


if __name__ == "__main__":
    sys.exit(main())
