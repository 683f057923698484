"""Packing: the kernel against its plain twin, no lost token, right rates, data order by step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.rng import key_words
from electra_ref.text import example_index, packing
from electra_ref.text.examples import (
    ExampleSource,
    assemble,
    open_all_examples,
    open_examples,
)
from electra_ref.text.packing import (
    SHORTEST_TARGET,
    PackingRules,
    pack,
    pack_reference,
)
from electra_ref.text.token_cache import EncodedDocument
from tests.cached_tokens import cached, cached_shards

Integers = npt.NDArray[np.int64]

SEEDS = st.integers(0, 2**63 - 1)
SPECIAL = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)
FALSE_ALARM = 1e-7  # of each statistical test, if its seed were drawn anew


@st.composite
def corpora(draw: st.DrawFn) -> tuple[Integers, Integers]:
    """Sentence ends in tokens and document ends in sentences, of 1 to 12 documents."""
    longest = draw(st.sampled_from([1, 4, 30, 300]))
    sentences = draw(st.lists(st.integers(1, 8), min_size=1, max_size=12))  # of each document
    rng = np.random.default_rng(draw(SEEDS))
    lengths = rng.integers(1, longest + 1, sum(sentences))
    return np.cumsum(lengths), np.cumsum(sentences)


RULES = st.builds(
    PackingRules,
    max_length=st.one_of(st.integers(SHORTEST_TARGET, 20), st.sampled_from([64, 128])),
    single_segment_probability=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    short_probability=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=SEEDS,
)


def pack_all(sentence_ends: Integers, document_ends: Integers, rules: PackingRules) -> Integers:
    documents = np.arange(document_ends.size)
    return np.concatenate(list(pack(sentence_ends, document_ends, documents, rules)))


@given(ends=corpora(), rules=RULES)
def test_the_kernel_is_its_plain_twin(ends: tuple[Integers, Integers], rules: PackingRules) -> None:
    documents = np.arange(ends[1].size)
    np.testing.assert_array_equal(pack_all(*ends, rules), pack_reference(*ends, documents, rules))


@given(ends=corpora(), rules=RULES)
def test_every_token_stands_in_one_example_of_its_document(
    ends: tuple[Integers, Integers], rules: PackingRules
) -> None:
    sentence_ends, document_ends = ends
    examples = pack_all(*ends, rules)
    start, split, end = examples.T
    assert start[0] == 0
    assert end[-1] == sentence_ends[-1]
    np.testing.assert_array_equal(start[1:], end[:-1])
    assert np.isin(sentence_ends[document_ends - 1], end).all()
    assert (start < split).all()
    assert (split <= end).all()
    assert (end - start + 2 + (split < end) <= rules.max_length).all()
    two = split < end  # B begins with a sentence, or A would have been cut
    assert np.isin(split[two], sentence_ends).all()
    assert rules.single_segment_probability < 1 or not two.any()


@given(ends=corpora(), rules=RULES, seed=SEEDS)
def test_a_document_is_packed_the_same_alone(
    ends: tuple[Integers, Integers], rules: PackingRules, seed: int
) -> None:
    document = np.array([np.random.default_rng(seed).integers(ends[1].size)])
    (alone,) = pack(*ends, document, rules)
    rows = {tuple(row) for row in pack_all(*ends, rules).tolist()}
    assert {tuple(row) for row in alone.tolist()} <= rows


def test_the_kernel_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_ends, document_ends = np.arange(3, 300, 3), np.array([30, 99])
    rules = PackingRules(20, 0.3, 0.3, 2**63 + 5)
    compiled = pack_all(sentence_ends, document_ends, rules)
    for name in ("_pack_documents", "_draw", "philox_block"):
        function = getattr(packing, name)
        monkeypatch.setattr(packing, name, getattr(function, "py_func", function))
    np.testing.assert_array_equal(pack_all(sentence_ends, document_ends, rules), compiled)


def test_documents_beyond_32_bits_have_numbers_of_their_own() -> None:
    seed, drawn = 2**63 + 5, set()
    for document in (1, 2**31, 2**32 - 1, 2**32 + 1, 5 * 2**32 + 1):
        draw = packing._drawing(document, seed)
        numbers = [packing._draw(document, word, key_words(seed)) for word in range(40)]
        assert [draw() for _ in range(40)] == numbers
        drawn |= set(numbers)
    assert len(drawn) == 5 * 40


def test_documents_in_pieces_are_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence_ends, document_ends = np.arange(7, 700, 7), np.arange(1, 100, 2)
    rules = PackingRules(16, 0.1, 0.05, 0)
    whole = pack_all(sentence_ends, document_ends, rules)
    monkeypatch.setattr(packing, "DOCUMENTS_AT_A_TIME", 7)
    np.testing.assert_array_equal(pack_all(sentence_ends, document_ends, rules), whole)


def test_a_target_that_is_impossible_is_refused() -> None:
    rules = PackingRules(SHORTEST_TARGET - 1, 0.1, 0.05, 0)
    with pytest.raises(ValueError, match="at least 5"):
        pack_all(np.array([3]), np.array([1]), rules)


def rows_of_one_token_sentences(rules: PackingRules) -> Integers:
    """Return about 80,000 examples of one document, without its last."""
    tokens = 10_000_000
    return pack_all(np.arange(1, tokens + 1), np.array([tokens]), rules)[:-1]


def check_rate(hits: npt.NDArray[np.bool_], rate: float) -> None:
    """Assert that ``hits``, 79,000 rows or more, are drawn with ``rate``, 0.05 or more.

    Exact binomial test: a false alarm has the probability FALSE_ALARM, or 5.3 standard deviations.
    A rate that is a fifth off lies 13 deviations away at 0.05 and farther above, so it is
    missed with a probability below 1e-13.
    """
    assert hits.size >= 79_000
    assert stats.binomtest(int(hits.sum()), hits.size, rate).pvalue > FALSE_ALARM


def test_single_segments_come_at_their_rate() -> None:
    start, split, end = rows_of_one_token_sentences(PackingRules(128, 0.1, 0.0, 1)).T
    single = split == end
    check_rate(single, 0.1)
    assert set((end - start)[single].tolist()) == {126}
    assert set((end - start)[~single].tolist()) == {125}


def test_a_coin_decides_about_the_sentence_that_reaches_half() -> None:
    start, split, _ = rows_of_one_token_sentences(PackingRules(128, 0.0, 0.0, 2)).T
    assert set((split - start).tolist()) == {61, 62}  # half is (128 - 3) // 2
    check_rate(split - start == 62, 0.5)


def test_short_rows_come_at_their_rate_and_are_uniform() -> None:
    start, _, end = rows_of_one_token_sentences(PackingRules(128, 0.0, 0.05, 3)).T
    length = end - start  # a target from 125 to 128 gives the same row as a full one
    check_rate(length < 125, 0.05 * 120 / 124)
    counts = np.bincount(length[length < 125], minlength=125)
    assert counts[:SHORTEST_TARGET].sum() == 0
    # The expected count of a length is 32, so a length is absent by chance with a probability below
    # 120 exp(-32) = 2e-12. Eight bins of 15 lengths expect 480 rows each: a bin drawn twice as
    # often adds 480 to chi-square, whose threshold is 44 here: missed below 1e-6.
    assert counts[SHORTEST_TARGET:].all()
    assert stats.chisquare(counts[SHORTEST_TARGET:].reshape(8, 15).sum(axis=1)).pvalue > FALSE_ALARM


@given(ends=corpora(), rules=RULES, extra=st.integers(0, 3))
def test_rows_are_assembled_as_bert_reads_them(
    ends: tuple[Integers, Integers], rules: PackingRules, extra: int
) -> None:
    tokens = np.arange(100, 100 + ends[0][-1], dtype=np.uint32)
    examples = pack_all(*ends, rules)
    length = rules.max_length + extra
    batch = assemble(tokens, examples, length, SPECIAL)
    assert [array.dtype for array in batch] == [np.int32, np.int32, np.bool_]
    for row, (start, split, end) in enumerate(examples.tolist()):
        ids = [SPECIAL.cls, *tokens[start:split].tolist(), SPECIAL.sep]
        types = [0] * len(ids)
        if split < end:
            ids += [*tokens[split:end].tolist(), SPECIAL.sep]
            types += [1] * (len(ids) - len(types))
        padding = length - len(ids)
        assert batch.input_ids[row].tolist() == ids + [SPECIAL.pad] * padding
        assert batch.token_type_ids[row].tolist() == types + [0] * padding
        assert batch.attention_mask[row].tolist() == [True] * len(ids) + [False] * padding


def test_the_number_of_the_first_document_names_its_random_numbers() -> None:
    """The documents of a shard are packed as they are in the whole corpus."""
    sentence_ends = np.arange(1, 601) * 3
    document_ends = np.arange(1, 31) * 20
    rules = PackingRules(16, 0.4, 0.4, 5)
    whole = pack_reference(sentence_ends, document_ends, np.arange(30), rules)
    last = sentence_ends[:200], document_ends[:10], np.arange(10), rules
    (packed,) = pack(*last, first=20)
    np.testing.assert_array_equal(packed + 1200, whole[whole[:, 0] >= 1200])
    np.testing.assert_array_equal(pack_reference(*last, first=20), packed)
    (other,) = pack(*last, first=2**32 + 20)
    assert other.tolist() != packed.tolist()


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit 6"):
        assemble(np.arange(9), np.array([[0, 2, 4]]), 6, SPECIAL)


def sources(folder: Path, rules: PackingRules) -> tuple[ExampleSource, ExampleSource]:
    """100 documents of 1 to 99 tokens; token i of the corpus has the id i + 5."""
    rng = np.random.default_rng(0)
    lengths = [rng.integers(1, 12, rng.integers(1, 9)) for _ in range(100)]
    ends = np.cumsum([0, *(part.sum() for part in lengths)]) + 5
    documents = (
        EncodedDocument(np.arange(start, end), part)
        for start, end, part in zip(ends[:-1], ends[1:], lengths, strict=True)
    )

    cache = cached(folder, documents, 10_000)
    return open_examples(folder, cache, rules, 0.2)


def ids_of(source: ExampleSource) -> set[int]:
    ids = source.batch(np.arange(source.count), 16, SPECIAL).input_ids
    return set(ids[ids > SPECIAL.mask].tolist())


def test_training_and_held_out_examples_share_the_corpus(tmp_path: Path) -> None:
    training, held_out = sources(tmp_path, PackingRules(16, 0.1, 0.05, 0))
    tokens = training.cache.tokens.size
    assert ids_of(training) | ids_of(held_out) == set(range(5, 5 + tokens))
    assert not ids_of(training) & ids_of(held_out)
    assert training.tokens + held_out.tokens == tokens
    assert 0.1 * tokens < held_out.tokens < 0.3 * tokens
    assert training.documents + held_out.documents == 100
    assert held_out.documents > 5


def test_packing_is_done_once_for_the_same_rules(tmp_path: Path) -> None:
    rules = PackingRules(16, 0.1, 0.05, 0)
    first, _ = sources(tmp_path, rules)
    before = sorted(tmp_path.iterdir())
    again, _ = sources(tmp_path, rules)
    assert sorted(tmp_path.iterdir()) == before
    numbers = np.arange(first.count)
    np.testing.assert_array_equal(first.index.rows(numbers), again.index.rows(numbers))
    other, _ = sources(tmp_path, rules._replace(seed=1))
    assert other.folder.path != first.folder.path


@pytest.mark.parametrize("longest_run", [1 << 31, 300, 40])
def test_shards_and_runs_do_not_change_the_examples(
    longest_run: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example index counts from the starts of its runs, of which a large corpus has several."""
    monkeypatch.setattr(example_index, "LONGEST_RUN", longest_run)
    rng = np.random.default_rng(1)
    documents = [
        EncodedDocument(rng.integers(5, 10_000, n), np.full(n, 1)) for n in rng.integers(1, 39, 90)
    ]
    rules = PackingRules(16, 0.1, 0.05, 0)
    one = open_examples(tmp_path, cached(tmp_path, documents, 10_000), rules, 0.2)
    parts = [documents[:0], documents[:50], documents[50:51], [], documents[51:]]
    cache = cached_shards(tmp_path, parts, 10_000, "parts")
    assert len(cache.shards) == 5
    several = open_examples(tmp_path, cache, rules, 0.2)
    for whole, joined in zip(one, several, strict=True):
        assert (joined.count, joined.tokens) == (whole.count, whole.tokens)
        assert joined.documents == whole.documents
        numbers = np.arange(whole.count)[::-1]
        np.testing.assert_array_equal(joined.index.rows(numbers), whole.index.rows(numbers))
        ours, other = joined.batch(numbers, 16, SPECIAL), whole.batch(numbers, 16, SPECIAL)
        np.testing.assert_array_equal(ours.input_ids, other.input_ids)
        assert joined.folder.sizes["training.bin"] == 12 * several[0].count
        runs = len(joined.folder.facts["training.bin"]["runs"])
        assert runs == 1 if longest_run > 10_000 else runs > 4
    rows = np.concatenate([part.index.rows(np.arange(part.count)) for part in several])
    rows = rows[np.argsort(rows[:, 0])]
    assert rows[:, 0].tolist() == [0, *rows[:-1, 2].tolist()], "every token is in one example"
    assert rows[-1, 2] == cache.tokens.size
    every = open_all_examples(tmp_path, cache, rules)
    assert every.documents == 90
    assert every.tokens == cache.tokens.size


def test_the_order_follows_from_the_step_alone(tmp_path: Path) -> None:
    training, _ = sources(tmp_path, PackingRules(16, 0.1, 0.05, 0))
    count = training.count
    order = np.concatenate([training.training_examples(step, 7, 3) for step in range(count)])
    singly = np.concatenate([training.training_examples(step, 1, 3) for step in range(7 * count)])
    np.testing.assert_array_equal(order, singly)
    epochs = order.reshape(7, count)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(count), (7, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 7
    assert (training.training_examples(0, count, 4) != epochs[0]).any()


def test_evaluation_reads_the_same_different_examples(tmp_path: Path) -> None:
    _, held_out = sources(tmp_path, PackingRules(16, 0.1, 0.05, 0))
    some = held_out.evaluation_examples(5, seed=0)
    assert len(set(some.tolist())) == 5
    np.testing.assert_array_equal(some, held_out.evaluation_examples(10**9, seed=0)[:5])
    assert sorted(held_out.evaluation_examples(10**9, seed=0)) == list(range(held_out.count))
    first_epoch = held_out.training_examples(0, held_out.count, seed=0)
    assert (held_out.evaluation_examples(10**9, seed=0) != first_epoch).any()


@pytest.mark.parametrize("part", ["tokens.bin", "training.bin"])
def test_a_cache_cut_short_while_training_is_a_user_error(part: str, tmp_path: Path) -> None:
    training, _ = sources(tmp_path, PackingRules(16, 0.1, 0.05, 0))
    (path,) = tmp_path.glob(f"*/{part}")
    path.write_bytes(b"")
    with pytest.raises(UserError, match=part):
        training.batch(np.array([0]), 16, SPECIAL)
