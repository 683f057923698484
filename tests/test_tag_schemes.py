"""IOB1, IOB2, IOBES and BILOU: each read and written, told apart, and repaired."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.training.finetuning.formats.schemes import (
    NONE,
    SCHEMES,
    MixedTagsError,
    Span,
    detect,
    is_in_scheme,
    scheme_of_labels,
    spans_of,
    tags_of,
)

# a span of one word, one of three, one of the same type right behind it, one of another type
SPANS = [Span(0, 1, "A"), Span(2, 5, "A"), Span(5, 7, "A"), Span(7, 8, "B-C")]
WRITTEN = {
    "iob1": "I-A O I-A I-A I-A B-A I-A I-B-C O",
    "iob2": "B-A O B-A I-A I-A B-A I-A B-B-C O",
    "iobes": "S-A O B-A I-A E-A B-A E-A S-B-C O",
    "bilou": "U-A O B-A I-A L-A B-A L-A U-B-C O",
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_example_of_each(scheme: str) -> None:
    tags = WRITTEN[scheme].split()
    assert tags_of(SPANS, 9, scheme) == tags
    assert spans_of(tags) == SPANS
    assert detect([["O"], tags]) == scheme
    assert is_in_scheme(tags, scheme)


def test_one_type_after_another_needs_no_b_in_iob1() -> None:
    spans = [Span(0, 1, "A"), Span(1, 2, "B"), Span(2, 3, "B")]
    assert tags_of(spans, 3, "iob1") == ["I-A", "I-B", "B-B"]


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Draw spans of two types, some side by side, and how many words there are."""
    spans, place = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4), st.sampled_from("XY")))
    ):
        spans.append(Span(place + gap, place + gap + length, kind))
        place += gap + length
    return spans, place + draw(st.integers(0, 2))


@given(sentences(), st.sampled_from(SCHEMES))
def test_what_is_written_is_read(sentence: tuple[list[Span], int], scheme: str) -> None:
    spans, words = sentence
    assert spans_of(tags_of(spans, words, scheme)) == spans


@given(st.lists(st.sampled_from(["O", *(f"{a}-{b}" for a in "BIESUL" for b in "XY")])))
def test_the_rule_of_conlleval(tags: list[str]) -> None:
    """The rule again, as conlleval has it: where a chunk ends, and where one begins."""

    def part(place: int) -> tuple[str, str]:
        if not 0 <= place < len(tags) or tags[place] == "O":
            return "O", ""
        letter, kind = tags[place].split("-")
        return {"U": "S", "L": "E"}.get(letter, letter), kind

    def ends(place: int) -> bool:
        (a, one), (b, other) = part(place), part(place + 1)
        return a in "ES" or (a in "BI" and (b in "BSO" or one != other))

    def begins(place: int) -> bool:
        (a, one), (b, other) = part(place - 1), part(place)
        return b in "BS" or (b in "EI" and (a in "ESO" or one != other))

    starts = [place for place in range(len(tags)) if begins(place)]
    stops = [place for place in range(len(tags)) if part(place)[0] != "O" and ends(place)]
    expected = [Span(a, b + 1, part(a)[1]) for a, b in zip(starts, stops, strict=True)]
    assert spans_of(tags) == expected


@given(st.lists(st.sampled_from(["O", "", "B-X", "I-X", "E-Y", "S-Y"])), st.sampled_from(SCHEMES))
def test_repaired_tags_are_in_the_scheme_and_have_the_same_spans(
    tags: list[str], scheme: str
) -> None:
    repaired = tags_of(spans_of(tags), len(tags), scheme)
    assert is_in_scheme(repaired, scheme)
    assert spans_of(repaired) == spans_of(tags)


def test_iob2_with_a_few_mistakes_is_still_iob2() -> None:
    good = [["B-A", "I-A", "O", "B-B", "O", "B-A", "I-A"]] * 5
    assert detect([*good, ["O", "I-A", "I-A"]]) == "iob2"
    assert not is_in_scheme(["O", "I-A", "I-A"], "iob2")


def test_unknown_tags_are_no_mistakes() -> None:
    assert is_in_scheme(["B-A", "", "O"], "iob2")
    assert detect([["", "S-A"], ["B-A", "E-A"]]) == "iobes"


def test_words_without_letters_are_of_no_scheme() -> None:
    assert detect([["NOUN", "O", "BE", "B-"]]) == NONE
    assert detect([["O", "O"]]) == NONE


def test_some_tags_with_letters_and_some_without_are_refused() -> None:
    with pytest.raises(MixedTagsError, match="the tag 'PER' has no letter and type, as 'B-PER' "):
        detect([["B-PER", "I-PER"], ["O", "PER"]])


def test_labels_tell_their_scheme() -> None:
    assert scheme_of_labels(["B-X", "E-X", "I-X", "O", "S-X"]) == "iobes"
    assert scheme_of_labels(["O", "S-X"]) == "iobes"
    assert scheme_of_labels(["B-X", "I-X", "L-X", "O", "U-X"]) == "bilou"
    assert scheme_of_labels(["B-X", "I-X", "O"]) == "iob2"
    assert scheme_of_labels(["O", "I-LOC", "I-PER"]) == "iob1"
    assert scheme_of_labels(["LABEL_0", "LABEL_1"]) == NONE
    assert scheme_of_labels(["O"]) == NONE
    assert scheme_of_labels(["B-LOC", "I-LOC", "X"]) == NONE
