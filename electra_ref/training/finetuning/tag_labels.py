"""Labels of a model that tags words, and the tags of sentences in its terms and back.

Labels that spell spans are those of iobes; a model from elsewhere may have those of another scheme.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.schemes import (
    NONE,
    OUTSIDE,
    MixedTagsError,
    detect,
    is_in_scheme,
    scheme_of_labels,
    spans_of,
    tags_of,
)
from electra_ref.training.finetuning.formats.sentences import UNTAGGED, Sentence
from electra_ref.training.finetuning.tally import Tally

AUTO = "auto"
WRITTEN_SCHEME = "iob2"  # where nothing says which scheme the training data had


def find_labels(sentences: Iterable[Sequence[str]], scheme: str) -> tuple[str, ...]:
    """Return the labels of sentences of tags in ``scheme``, in alphabetical order.

    Those of spans are all that iobes has for the types that occur. Raises UserError if there are
    fewer than two.
    """
    if scheme == NONE:
        labels = sorted({tag for tags in sentences for tag in tags} - {UNTAGGED})
    else:
        types = {span.type for tags in sentences for span in spans_of(tags)}
        labels = sorted([OUTSIDE, *(f"{letter}-{kind}" for letter in "BIES" for kind in types)])
    if len(labels) < 2:
        raise UserError(
            f"all words of the training data have the tag {''.join(labels)!r}: there is nothing to "
            "learn; is it the right column?"
        )
    return tuple(labels)


def scheme_of(tag_scheme: str, labels: Iterable[str]) -> str:
    """Return the scheme of the ``labels`` of a model, trained with the setting ``tag_scheme``."""
    return NONE if tag_scheme == NONE else scheme_of_labels(labels)


def label_numbers(tags: Sequence[str], tag_scheme: str, labels: tuple[str, ...]) -> list[int]:
    """Return the number of the label of each tag; -1 where it is UNTAGGED, or none of them."""
    scheme, numbers = _numbering(tag_scheme, labels)
    if scheme != NONE:
        spelled = tags_of(spans_of(tags), len(tags), scheme)
        tags = [new if tag else UNTAGGED for tag, new in zip(tags, spelled, strict=True)]
    return [numbers.get(tag, -1) for tag in tags]


@functools.lru_cache(maxsize=8)
def _numbering(tag_scheme: str, labels: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """Return the scheme of ``labels``, and their numbers."""
    return scheme_of(tag_scheme, labels), {label: number for number, label in enumerate(labels)}


def written_tags(found: Sequence[str], tag_scheme: str, labels: Iterable[str]) -> Sequence[str]:
    """Return the labels that were ``found`` for a sentence as tags of ``tag_scheme``."""
    if scheme_of(tag_scheme, labels) == NONE:
        return found
    scheme = WRITTEN_SCHEME if tag_scheme == AUTO else tag_scheme
    return tags_of(spans_of(found), len(found), scheme)


def check_scheme(sentences: Sequence[Sentence], tag_scheme: str, tally: Tally) -> None:
    """Count the sentences whose tags no scheme would write. Raises UserError for mixed tags."""
    if tag_scheme == AUTO:
        try:
            tag_scheme = detect([one.tags or () for one in sentences])
        except MixedTagsError as error:
            place = next(one.place for one in sentences if error.tag in (one.tags or ()))
            raise UserError(f"{place}: {error}") from error
    if tag_scheme == NONE:
        return
    for one in sentences:
        if not is_in_scheme(one.tags or (), tag_scheme):
            tally.add(f"sentences with tags that {tag_scheme} spells otherwise", one.place)


def check_labels(
    name: str,
    sentences: Sequence[Sentence],
    tag_scheme: str,
    labels: tuple[str, ...],
    allowed: float,
    tally: Tally,
) -> None:
    """Count the words of the file ``name`` whose tags are none of ``labels``.

    Raises UserError if they are more than the share ``allowed`` of the words with a tag.
    """
    first, unseen, tagged = "", 0, 0
    for one in sentences:
        tags = one.tags or ()
        for tag, number in zip(tags, label_numbers(tags, tag_scheme, labels), strict=True):
            if tag == UNTAGGED or (tag == OUTSIDE and number >= 0):
                continue
            tagged += 1
            if number < 0:
                unseen += 1
                first = first or f"{tag!r} in the sentence of {one.place}"
                tally.add("words with a tag that the training data do not have, missed", first)
    if unseen > allowed * max(tagged, 1):
        raise UserError(
            f"{name}: {unseen} of {tagged} tagged words have tags that the training data do not "
            f"have, the first {first}: correct the file or the columns, or --set unseen_share=1"
        )
