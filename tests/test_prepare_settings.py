"""Preparing the data: each setting reaches its place, and no result serves another setting.

What comes out is computed again from its parts (reader, vocabulary, WordPiece, packing), which have
tests of their own. Each number is another one, so that none can take the place of another.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.text import corpus_sample
from electra_ref.text import prepare as prepare_module
from electra_ref.text.corpus_sample import draw_sample, read_sample
from electra_ref.text.holding_out import choose, divide
from electra_ref.text.listing import list_files
from electra_ref.text.packing import PackingRules, pack_reference
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.text.token_ids import ID_SHIFT
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.wordpiece import WordPiece
from tests.small_runs import small_config, write_corpus

CHANGES: dict[str, Any] = {
    "max_vocab_size": 66,
    "lowercase": False,
    "max_length": 19,
    "single_segment_probability": 0.45,
    "short_probability": 0.35,
    "held_out_fraction": 0.15,
    "seed": 9,
}
CONFIG = small_config(**CHANGES)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.txt")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return folder_in(tmp_path, "cache")


def folder_in(path: Path, name: str) -> Path:
    (path / name).mkdir()
    return path / name


def assert_packed_as_asked(data: PreparedData, config: PretrainingConfig) -> None:
    """Pack again, document by document."""
    cache = data.training.cache
    fraction, seed = config.held_out_fraction, config.seed
    sentence_ends, document_ends, held_out = divide(
        cache.documents(0), choose(cache, 1, fraction, seed), 0
    )
    rules = PackingRules(
        max_length=config.max_length,
        single_segment_probability=config.single_segment_probability,
        short_probability=config.short_probability,
        seed=config.seed,
    )
    for source, part in ((data.training, ~held_out), (data.held_out, held_out)):
        assert part.sum() > 3
        expected = pack_reference(sentence_ends, document_ends, np.flatnonzero(part), rules)
        np.testing.assert_array_equal(source.index.rows(np.arange(source.count)), expected)


def test_each_setting_reaches_its_place(text: Path, cache: Path) -> None:
    data = prepare(CONFIG, cache, corpus=[str(text)])
    documents = [document.split("\n") for document in text.read_text("utf-8").strip().split("\n\n")]
    lines = [line for document in documents for line in document]
    vocabulary = train_vocabulary(lines, 66, lowercase=False)
    assert data.tokenizer.vocab == tuple(vocabulary)
    assert len(vocabulary) == 66
    tokenizer = WordPiece(vocabulary, lowercase=False)
    ids, lengths = tokenizer.encode_lines(lines)
    np.testing.assert_array_equal(data.training.cache.tokens, ids)
    assert len(data.training.cache.shards) == 1
    _, sentence_ends, document_ends, _ = data.training.cache.documents(0)
    np.testing.assert_array_equal(sentence_ends, np.cumsum(lengths))
    np.testing.assert_array_equal(
        document_ends, np.cumsum([len(document) for document in documents])
    )
    assert_packed_as_asked(data, CONFIG)
    assert data.tokenizer.encode("Tést") == tokenizer.encode("Tést") != tokenizer.encode("test")


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "kept"),
    [(True, True, "t e s t"), (True, False, "t é s t"), (False, True, "T é s t")],
)
def test_accents_are_stripped_apart_from_lower_casing_but_not_in_cased_text(
    lowercase: bool, strip_accents: bool, kept: str, tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "accents.txt"
    path.write_text("Tést\n\n" * 200, encoding="utf-8")
    config = small_config(lowercase=lowercase, strip_accents=strip_accents)
    data = prepare(config, cache, corpus=[str(path)])
    (piece,) = data.tokenizer.encode("Tést")
    assert data.tokenizer.vocab[piece] == kept.replace(" ", "")
    assert set(data.training.cache.tokens[:].tolist()) == {piece}


def test_a_wanted_number_of_entries_counts_more_than_the_largest(text: Path, cache: Path) -> None:
    config = small_config(vocab_size=63, max_vocab_size=66)
    assert len(prepare(config, cache, corpus=[str(text)]).tokenizer.vocab) == 63


def test_a_given_vocabulary_is_used_as_it_is(text: Path, cache: Path) -> None:
    """As a resumed run does; the tokenizer lower-cases as the settings say, from the cache too."""
    first = prepare(CONFIG, cache, corpus=[str(text)])
    given: dict[str, Any] = {"vocabulary": first.tokenizer.vocab[:-1], "corpus": [str(text)]}
    fresh = prepare(CONFIG, cache, **given)
    again = prepare(CONFIG, cache, known_key=fresh.key, **given)
    assert again.key == fresh.key != first.key
    for data in (fresh, again):
        assert data.tokenizer.vocab == first.tokenizer.vocab[:-1]
        assert data.tokenizer.encode("Tést") == first.tokenizer.encode("Tést")
        assert_packed_as_asked(data, CONFIG)
    assert again.report == fresh.report


def test_ids_are_packed_by_the_same_settings(tmp_path: Path, cache: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50, (40, 30))
    np.save(tmp_path / "ids.npy", ids)
    data = prepare(CONFIG, cache, ids_paths=[str(tmp_path / "ids.npy")])
    np.testing.assert_array_equal(data.training.cache.tokens, ids.ravel() + ID_SHIFT)
    assert len(data.tokenizer.vocab) == ids.max() + 1 + ID_SHIFT
    assert_packed_as_asked(data, CONFIG)
    size = (tmp_path / "ids.npy").stat().st_size
    assert data.report == {
        "files": 1,
        "bytes": size,
        "documents": 40,
        "tokens": 1200,
        "notes": [],
    }


@pytest.mark.parametrize("key", [*CHANGES, "vocab_size"])
def test_the_cache_never_answers_for_another_setting(
    key: str, text: Path, cache: Path, tmp_path: Path
) -> None:
    """What a used cache gives is what an empty one gives."""
    prepare(small_config(), cache, corpus=[str(text)])
    config = small_config(**{key: {**CHANGES, "vocab_size": 63}[key]})
    used, fresh = (
        prepare(config, folder, corpus=[str(text)])
        for folder in (cache, folder_in(tmp_path, "empty"))
    )
    assert used.tokenizer.vocab == fresh.tokenizer.vocab
    assert used.key == fresh.key
    assert used.report == fresh.report
    for ours, other in ((used.training, fresh.training), (used.held_out, fresh.held_out)):
        np.testing.assert_array_equal(ours.cache.tokens, other.cache.tokens)
        numbers = np.arange(other.count)
        np.testing.assert_array_equal(ours.index.rows(numbers), other.index.rows(numbers))


@pytest.mark.parametrize("names", ["ab-", "b-a", "-ba", "ba"])
def test_the_corpus_is_read_in_the_order_it_was_named(
    names: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``a`` is a file, ``b`` a folder of two files, and standard input stands where it is named."""
    folder_in(tmp_path, "b")
    files = {"a.txt": "one", "b/1.txt": "two", "b/2.txt": "three", "typed": "four"}
    for name, word in files.items():
        (tmp_path / name).write_text(f"{word}\n" * 100)
    paths = {"a": str(tmp_path / "a.txt"), "b": str(tmp_path / "b"), "-": "-"}
    with open(tmp_path / "typed", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        data = prepare(small_config(), cache, corpus=[paths[name] for name in names])
    words = {"a": ["one"], "b": ["two", "three"], "-": ["four"]}
    expected = [word for name in names for word in words[name]]
    text = " ".join(data.tokenizer.vocab[token] for token in data.training.cache.tokens[:].tolist())
    assert text.replace(" ##", "").split() == np.repeat(expected, 100).tolist()
    assert data.report["files"] == len(expected)


def test_the_report_counts_what_was_read(tmp_path: Path, cache: Path) -> None:
    long = b"three" * 30  # more characters than a word may have
    content = b"\n\n".join([b"one two\n" + long, b"four \xff five\x01\nsix\nseven"] * 30)
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(b"eight " * 50)
    data = prepare(small_config(), cache, corpus=[str(tmp_path / n) for n in ("a.txt", "b.txt")])
    assert data.report == {
        "files": 2,
        "object_files": 0,
        "row_files": 0,
        "bytes": len(content) + 300,
        "documents": 61,
        "sentences": 30 * 5 + 1,
        "invalid_bytes": 30,
        "control_characters": 30,
        "cut_sentences": 0,
        "unknown_tokens": 30,
        "unknown_examined": 30,
        "unknown_too_long": 30,
        "unknown_characters": 0,
        "missing_characters": [],
        "tokens": data.training.tokens + data.held_out.tokens,
        "notes": [],
    }


def test_a_large_corpus_trains_its_vocabulary_on_a_share_of_it(
    text: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has three times what is read whole, so a third of its blocks is read."""
    most = text.stat().st_size // 3
    monkeypatch.setattr(prepare_module, "VOCABULARY_BYTES", most)
    monkeypatch.setattr(corpus_sample, "BLOCK_BYTES", 200)
    data = prepare(small_config(), cache, corpus=[str(text)])
    sample = list(read_sample(draw_sample(list_files([str(text)]).files, most), lambda _: None))
    assert 0.1 < len("\n".join(sample)) / text.stat().st_size < 0.6
    assert list(data.tokenizer.vocab) == train_vocabulary(sample, 60)
    assert data.report["documents"] == 40


def test_every_stage_says_how_far_it_is(text: Path, tmp_path: Path, cache: Path) -> None:
    """Counts go up to the bytes of all files, or the ids, that there are."""
    said: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        said.setdefault(stage, []).append((done, total))

    more = write_corpus(tmp_path / "more.txt", seed=1)
    data = prepare(small_config(), cache, corpus=[str(text), str(more)], progress=progress)
    size = text.stat().st_size + more.stat().st_size
    merging = said.pop("merging pieces")
    assert merging[-1][0] == merging[-1][1] > 10
    packing = said.pop("packing")
    assert packing[-1] == (0, data.report["tokens"])
    assert list(said) == ["hashing the text", "training the vocabulary", "tokenizing"]
    assert all(steps[-1] == (size, size) for steps in said.values())
    np.save(tmp_path / "ids.npy", np.arange(400) % 40)
    said.clear()
    prepare(small_config(), cache, ids_paths=[str(tmp_path / "ids.npy")], progress=progress)
    assert {stage: steps[-1] for stage, steps in said.items()} == {
        "checking the token ids": (400, 400),
        "copying the token ids": (400, 400),
        "packing": (0, 400),
    }
