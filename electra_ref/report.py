"""Write a page about runs: ``python -m electra_ref.report RUN_DIR ...``; ``--help`` says more.

Exit codes: 0 done, 2 wrong input, or no matplotlib (one line says what).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from electra_ref.command_line import Parser, file, folder
from electra_ref.running import run_command
from electra_ref.terminal_text import visible
from electra_ref.training.progress import show

PROGRAM = "python -m electra_ref.report"


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command line; return the exit code. Messages call it ``program``."""
    parser = build_parser(program)
    return run_command(parser.prog, lambda: report(parser.parse(arguments)))


def build_parser(program: str = PROGRAM) -> Parser:
    """Return the parser of the command line."""
    parser = Parser(
        program,
        "Write one HTML page about runs of the training command, also while they go on: curves, "
        "samples, figures, sizes, settings. It needs no network and no script. Several runs are "
        "drawn on top of each other. Needs matplotlib (extra: plots).",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=folder, metavar="RUN_DIR", help="folder of a run")
    add(
        "--output",
        type=file,
        metavar="FILE",
        help="where the page is written; only a report is ever replaced (default: report.html in "
        "the first RUN_DIR)",
    )
    return parser


def report(options: argparse.Namespace) -> int:
    """Do what ``options`` say; return the exit code. Raises UserError."""
    from electra_ref.training.report.drawing import draw, require_matplotlib  # noqa: PLC0415
    from electra_ref.training.report.output import (  # noqa: PLC0415  (loads numba)
        NAME,
        require_replaceable,
        write_report,
    )
    from electra_ref.training.report.page import page_of  # noqa: PLC0415
    from electra_ref.training.report.reading import read_runs  # noqa: PLC0415

    require_matplotlib()
    path = options.output or options.runs[0] / NAME
    runs = read_runs(options.runs)
    require_replaceable(path)
    write_report(path, page_of(runs, draw))
    show(f"the report is in {visible(str(path))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
