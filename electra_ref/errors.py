"""The exceptions that end a command as expected: with a line for people, or quietly."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    A command line prints the message without a traceback and exits with code 2.
    """


class ReaderGoneError(Exception):
    """Nobody reads what a command writes any more, as after ``| head``.

    A command line prints nothing, and exits with the code of SIGPIPE.
    """
