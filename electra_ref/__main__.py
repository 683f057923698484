"""All commands under one name: ``electra-ref train ...`` or ``python -m electra_ref train ...``.

A command is a module of this package with ``main(arguments, program)``. A new one is a line in
COMMANDS. ``python -m electra_ref.COMMAND`` does the same.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from electra_ref import __version__
from electra_ref.errors import UserError
from electra_ref.running import run_alone
from electra_ref.training.progress import show

COMMANDS = {
    "train": "pre-train on text or token ids",
    "finetune": "learn a task from labelled data, beginning with a trained model",
    "evaluate": "print the figures of a model on held-out rows",
    "predict": "say which tokens were replaced, what fills a mask, or answer as fine-tuned",
    "convert": "write a model in the Hugging Face format, or read one",
    "report": "write a page about runs: curves, samples, figures, settings",
}


def main(arguments: Sequence[str] | None = None, program: str = "electra-ref") -> int:
    """Run the command that the first argument names; return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run_alone(program, lambda: dispatch(given, program))


def dispatch(arguments: Sequence[str], program: str) -> int:
    """Hand the other arguments to the command. Raises UserError if there is no such command."""
    if not arguments:
        raise UserError(f"name a command: {', '.join(COMMANDS)}; {program} --help explains")
    name, *others = arguments
    if name in ("-h", "--help"):
        show(usage(program))
        return 0
    if name == "--version":
        show(f"electra_ref {__version__}\n")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; there are: {', '.join(COMMANDS)}")
    code: int = importlib.import_module(f"electra_ref.{name}").main(others, f"{program} {name}")
    return code


def usage(program: str) -> str:
    """Return the commands, a line each, and how to ask for more."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [f"usage: {program} COMMAND ...", "", *lines, "", f"{program} COMMAND --help says more\n"]
    )


if __name__ == "__main__":
    sys.exit(main(program="python -m electra_ref"))
