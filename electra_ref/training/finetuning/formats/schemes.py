"""Spans of words as a tag a word: IOB1, IOB2, IOBES and BILOU, read alike and written exactly.

             one word    several    outside
    iob1     I           I I I      O          a span that follows one of its type begins with B
    iob2     B           B I I      O
    iobes    S           B I E      O
    bilou    U           B I L      O

A tag is a letter, a hyphen and the type of the span: I-PER. All schemes are read by one rule, that
of the CoNLL shared tasks: a word goes on with the span of the word before if its letter is I or E,
that of the word before is B or I, and the types are equal. Any other tag but O begins a span. So
each sequence of tags has spans, also one that no scheme would write.

Sources: Ramshaw and Marcus 1995, arXiv:cmp-lg/9505040 (iob1); Tjong Kim Sang and Veenstra 1999,
arXiv:cs/9907006 (the variants); conlleval of CoNLL-2000 (the rule).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import regex

from electra_ref.errors import UserError

NONE = "none"  # each tag is by itself, as a part of speech is
SCHEMES = ("iob2", "iob1", "iobes", "bilou")
OUTSIDE = "O"

# of the one word of a span; of the first, of those inside, of the last of several
_LETTERS = {name: tuple(letters) for name, letters in (
    ("iob1", "IIII"), ("iob2", "BBII"), ("iobes", "SBIE"), ("bilou", "UBIL")
)}  # fmt: skip
_SYNONYMS = {"U": "S", "L": "E"}
_TAG = regex.compile(r"[BIESUL]-.+")


class MixedTagsError(UserError):
    """Some tags have a letter and a type, and ``tag`` has not."""

    def __init__(self, tag: str, typed: Iterable[str]) -> None:
        super().__init__(
            f"the tag {tag!r} has no letter and type, as {min(typed)!r} has: correct it, or let "
            f"all tags be learned as they are, by tag_scheme={NONE}"
        )
        self.tag = tag


class Span(NamedTuple):
    """Words from ``start`` up to ``end``, which is none of it."""

    start: int
    end: int
    type: str


@functools.lru_cache(maxsize=1 << 14)
def _parts_of(tag: str) -> tuple[str, str]:
    """Return the letter, as iobes has it, and the type; the letter is empty where there is none."""
    if not _TAG.fullmatch(tag):
        return "", tag
    return _SYNONYMS.get(tag[0], tag[0]), tag[2:]


def spans_of(tags: Iterable[str]) -> list[Span]:
    """Return the spans of a sentence; a tag without letter and type is outside."""
    spans: list[Span] = []
    before = ""  # the letter of the word before, "" where a span cannot go on
    for place, tag in enumerate(tags):
        letter, kind = _parts_of(tag)
        if not letter:
            before = ""
            continue
        goes_on = letter in "IE" and before != "" and before in "BI" and spans[-1].type == kind
        start = spans.pop().start if goes_on else place
        spans.append(Span(start, place + 1, kind))
        before = letter
    return spans


def tags_of(spans: Sequence[Span], words: int, scheme: str) -> list[str]:
    """Return the tags of a sentence of ``words`` words, whose ``spans`` ascend and do not meet."""
    only, first, inside, last = _LETTERS[scheme]
    tags = [OUTSIDE] * words
    before: Span | None = None
    for span in spans:
        letters = [first, *[inside] * (span.end - span.start - 2), last]
        if span.end - span.start == 1:
            letters = [only]
        if scheme == "iob1" and before is not None and before[1:] == (span.start, span.type):
            letters[0] = "B"
        tags[span.start : span.end] = [f"{letter}-{span.type}" for letter in letters]
        before = span
    return tags


def detect(sentences: Sequence[Sequence[str]]) -> str:
    """Return the scheme that fits most of the tags, or NONE if no tag has a letter and a type.

    Raises MixedTagsError if only some of the tags have them.
    """
    counts = Counter(tag for tags in sentences for tag in tags if tag not in ("", OUTSIDE))
    typed = {tag for tag in counts if _TAG.fullmatch(tag)}
    if not typed:
        return NONE
    if untyped := [tag for tag in counts if tag not in typed]:
        raise MixedTagsError(untyped[0], typed)
    others = dict.fromkeys(SCHEMES, 0)  # tags that the scheme would write otherwise
    for tags in sentences:
        spans = spans_of(tags)
        for scheme in SCHEMES:
            others[scheme] += _differences(tags, tags_of(spans, len(tags), scheme))
    return min(SCHEMES, key=lambda scheme: others[scheme])  # of equal ones the first


def is_in_scheme(tags: Sequence[str], scheme: str) -> bool:
    """Return whether ``scheme`` would write the spans of ``tags`` in this way."""
    return not _differences(tags, tags_of(spans_of(tags), len(tags), scheme))


def _differences(tags: Sequence[str], written: Sequence[str]) -> int:
    """Return how many words that have a tag are ``written`` with another one."""
    return sum(1 for tag, other in zip(tags, written, strict=True) if tag != other and tag)


def scheme_of_labels(labels: Iterable[str]) -> str:
    """Return the scheme that all ``labels`` of a model are of; NONE if they have none."""
    letters = {label[0] if _TAG.fullmatch(label) else label for label in labels} - {OUTSIDE}
    if not letters or not letters <= set("BIESUL"):
        return NONE
    if letters & set("UL"):
        return "bilou"
    if letters & set("ES"):
        return "iobes"
    return "iob2" if "B" in letters else "iob1"
