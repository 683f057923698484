"""F1 of entities and of semantic roles, against examples by hand and computations written apart."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.training.finetuning.formats.schemes import Span, spans_of
from electra_ref.training.finetuning.scores.entity_f1 import count_spans, span_scores
from electra_ref.training.finetuning.scores.role_f1 import arguments_of


def test_entities_by_hand() -> None:
    """Three are there, three are found, one is right: a type is wrong, and an end."""
    there = [("PER", (0, 2)), ("LOC", (3, 4)), ("LOC", (5, 7))]
    found = [("PER", (0, 2)), ("ORG", (3, 4)), ("LOC", (5, 6))]
    scores = span_scores(count_spans([(there, found), ([], [])]))
    assert list(scores) == ["f1", "precision", "recall", "f1_LOC", "f1_ORG", "f1_PER"]
    assert scores == pytest.approx(
        {"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "f1_LOC": 0, "f1_ORG": 0, "f1_PER": 1}
    )


def test_precision_and_recall_are_not_mixed_up() -> None:
    """Of four that are there, the only one that is found is right."""
    there = [("A", n) for n in range(4)]
    scores = span_scores(count_spans([(there, there[:1])]))
    assert (scores["precision"], scores["recall"], scores["f1"]) == (1.0, 0.25, 0.4)


def test_sentences_count_together() -> None:
    """One right of four; the equal spans of two sentences are two."""
    one = [("A", (0, 1))]
    scores = span_scores(count_spans([(one, one), (one, []), (one, []), (one, [])]))
    assert scores["recall"] == 0.25


def test_nothing_at_all_scores_nothing() -> None:
    assert span_scores(count_spans([])) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_continuations_join() -> None:
    spans = spans_of(
        ["B-ARG1", "B-V", "B-C-ARG1", "I-C-ARG1", "B-R-ARG1", "B-C-ARG2", "B-C-ARG1", "B-C-V"]
    )
    assert arguments_of(spans) == [
        ("ARG1", ((0, 1), (2, 4), (6, 7))),
        ("R-ARG1", ((4, 5),)),
        ("ARG2", ((5, 6),)),  # nothing to go on with
    ]


def test_a_continuation_goes_on_with_the_last_argument_of_its_role() -> None:
    spans = [Span(0, 1, "A"), Span(2, 3, "A"), Span(4, 5, "C-A")]
    assert arguments_of(spans) == [("A", ((0, 1),)), ("A", ((2, 3), (4, 5)))]


def test_a_continuation_may_be_gone_on_with() -> None:
    spans = [Span(0, 1, "C-A"), Span(2, 3, "C-A")]
    assert arguments_of(spans) == [("A", ((0, 1), (2, 3)))]


def test_the_predicate_does_not_count_not_even_in_two_parts() -> None:
    assert arguments_of([Span(0, 1, "V"), Span(3, 4, "C-V")]) == []
    assert arguments_of([Span(3, 4, "C-V")]) == []


def test_an_argument_of_two_parts_needs_both() -> None:
    there = arguments_of([Span(0, 1, "A"), Span(2, 4, "C-A")])
    half = arguments_of([Span(0, 1, "A")])
    longer = arguments_of([Span(0, 1, "A"), Span(2, 5, "C-A")])
    for found in (half, longer):
        assert span_scores(count_spans([(there, found)]))["f1"] == 0.0
    assert span_scores(count_spans([(there, there)]))["f1"] == 1.0


def by_words(tags: list[str]) -> Counter[tuple[str, tuple[int, ...]]]:
    """Return the arguments of a sentence by a way of its own: each is its role and all its words.

    srl-eval.pl compares the parts of an argument. Parts never touch, or their order tells them
    apart, unless a part goes on right behind another one; the words then have a mark between.
    """
    found: list[tuple[str, list[int]]] = []
    open_role = ""
    for place, tag in enumerate(tags):
        letter, _, role = tag.partition("-")
        if tag == "O":
            open_role = ""
            continue
        starts = letter == "B" or role != open_role
        open_role = role
        name = role[2:] if role.startswith("C-") else role
        same = [words for other, words in found if other == name]
        if starts and (not role.startswith("C-") or not same):
            found.append((name, [place]))
        elif starts:
            same[-1] += [-1, place]
        else:
            same[-1].append(place)
    return Counter((name, tuple(words)) for name, words in found if name != "V")


ROLES = ["O", *(f"{a}-{b}" for a in "BI" for b in ("A", "C-A", "R-A", "B", "C-B", "V", "C-V"))]
SENTENCE = st.lists(st.sampled_from(ROLES), min_size=8, max_size=8)


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=4))
def test_roles_against_another_computation(pairs: list[tuple[list[str], list[str]]]) -> None:
    scores = span_scores(
        count_spans(
            (arguments_of(spans_of(there)), arguments_of(spans_of(found))) for there, found in pairs
        )
    )
    right = sum((by_words(there) & by_words(found)).total() for there, found in pairs)
    all_there = sum(by_words(there).total() for there, _ in pairs)
    all_found = sum(by_words(found).total() for _, found in pairs)
    np.testing.assert_allclose(scores["recall"], right / max(all_there, 1), rtol=1e-12)
    np.testing.assert_allclose(scores["precision"], right / max(all_found, 1), rtol=1e-12)
