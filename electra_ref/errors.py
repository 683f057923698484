"""The one exception whose message is meant for the person at the terminal."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    A command line prints the message without a traceback and exits with code 2.
    """
