"""The compiled merges are those of the plain ones: same pieces, same order, same end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref.text import fast_merging, merging
from electra_ref.text.fast_merging import PairIndex, lay_out
from electra_ref.text.merge_kernels import NONE

# one letter makes runs, two make many ties, ``#`` and characters beyond 16 bits sort otherwise
LETTERS = st.sampled_from(["a", "ab", "ab#\U0001f600", "abcdefghi\u00e9"])
WORDS = LETTERS.flatmap(
    lambda letters: st.dictionaries(
        st.text(letters, min_size=1, max_size=25), st.integers(1, 40), max_size=60
    )
)


@pytest.fixture(scope="module", autouse=True)
def few_places_at_a_time() -> Iterator[None]:
    """Interrupt the joining of a pair after every three places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_merging, "PLACES_AT_A_TIME", 3)
        yield


@given(words=WORDS, least=st.integers(1, 3))
def test_merges_are_those_of_the_plain_twin(words: dict[str, int], least: int) -> None:
    assert list(fast_merging.find_merges(words, least)) == list(merging.find_merges(words, least))


def test_merges_of_a_longer_text_are_those_of_the_plain_twin() -> None:
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    drawn = rng.choice(letters, (3000, 12), p=np.arange(12, 0, -1) / 78)
    lengths = rng.integers(1, 13, 3000)
    words = Counter("".join(row[:n]) for row, n in zip(drawn, lengths, strict=True))
    found = list(fast_merging.find_merges(words, 2))
    assert found == list(merging.find_merges(words, 2))
    assert len(found) > 1000


@given(words=WORDS)
def test_counts_and_lists_of_pairs_stay_right(words: dict[str, int]) -> None:
    index = PairIndex(words, 2)
    for _ in range(5):
        expected: Counter[tuple[int, int]] = Counter()
        places = index._places
        for place in np.flatnonzero(places["pair"] != NONE):
            pieces = places["piece"][place], places["piece"][places["after"][place]]
            expected[pieces] += int(places["count"][place])
        pairs = index._pairs[: index._pair_count]
        counted = {(p["left"], p["right"]): p["count"] for p in pairs if p["count"]}
        assert counted == expected
        best = index.pop_most_frequent()
        if best is None:
            break
        index.join(best)


def test_places_are_laid_out_word_after_word() -> None:
    pieces, places = lay_out({"ab": 3, "b": 1, "bba": 2})
    assert pieces == ["a", "##a", "b", "##b"]
    assert [pieces[i] for i in places["piece"]] == ["a", "##b", "b", "b", "##b", "##a"]
    assert places["before"].tolist() == [NONE, 0, NONE, NONE, 3, 4]
    assert places["after"].tolist() == [1, NONE, NONE, 4, 5, NONE]
    assert places["count"].tolist() == [3, 3, 1, 2, 2, 2]


def test_no_words_have_no_merges() -> None:
    assert list(fast_merging.find_merges({}, 1)) == []


def test_a_stop_is_heard_while_the_first_pairs_are_made() -> None:
    called: list[None] = []
    PairIndex({"ab" + chr(0x4E00 + i): 1 for i in range(300)}, 2, lambda: called.append(None))
    assert len(called) >= 302


def test_a_stop_is_heard_while_one_pair_is_joined() -> None:
    called: list[None] = []
    words = {"ab" + chr(0x4E00 + i): 1 for i in range(300)}
    merges = fast_merging.find_merges(words, 2, lambda: called.append(None))
    assert list(merges) == ["ab"]
    assert len(called) >= 300 / 3
