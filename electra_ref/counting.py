"""Numbers with their nouns, in what a command says."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return the number with its noun, in the singular for 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
