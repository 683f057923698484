"""How many semantic roles were found: ``entity_f1`` of arguments in place of spans.

An argument is a role and its spans, mostly one. A span C-X goes on with the argument X, the last
one before it; without one it is an argument X by itself. All spans of an argument have to be
right. References R-X are roles of their own. The predicate, V, is not counted.
Source: Carreras and Marquez 2005, "Introduction to the CoNLL-2005 Shared Task", section 2, and its
srl-eval.pl (``load_SE_tagging``, ``discriminate_args``).
"""

from __future__ import annotations

from collections.abc import Iterable

from electra_ref.training.finetuning.formats.schemes import Span

PREDICATE = "V"
CONTINUATION = "C-"

Argument = tuple[str, tuple[tuple[int, int], ...]]  # the role, and [start, end) of its spans


def arguments_of(spans: Iterable[Span]) -> list[Argument]:
    """Return the arguments of a predicate, whose ``spans`` ascend."""
    found: list[tuple[str, list[tuple[int, int]]]] = []
    last: dict[str, list[tuple[int, int]]] = {}  # spans of the last argument of each role
    for start, end, kind in spans:
        role = kind.removeprefix(CONTINUATION)
        if role == kind or role not in last:
            last[role] = []
            found.append((role, last[role]))
        last[role].append((start, end))
    return [(role, tuple(parts)) for role, parts in found if role != PREDICATE]
