"""From files to batches in one call, from the cache the second time; errors in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.text import (
    corpus_file,
    corpus_sample,
    embedded_corpus,
    id_shards,
    named_files,
    token_ids,
    tokenizing,
)
from electra_ref.text import examples as examples_module
from electra_ref.text import prepare as prepare_module
from electra_ref.text.cache_folder import open_or_build
from electra_ref.text.prepare import PreparedData, prepare

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def configure(**changes: Any) -> PretrainingConfig:
    return PretrainingConfig(
        **{"max_vocab_size": 300, "max_length": 16, "held_out_fraction": 0.2, **changes}
    )


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A file of 60 short documents."""
    rng = np.random.default_rng(0)
    lines = (" ".join(rng.choice(WORDS, 8)) + "\n" * (1 + (i % 3 == 2)) for i in range(180))
    (tmp_path / "text.txt").write_text("".join(lines))
    return str(tmp_path / "text.txt")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def words_of(data: PreparedData) -> list[str]:
    """All words of the corpus in the order of the token stream."""
    vocab = data.tokenizer.vocab
    stream = " ".join(vocab[i] for i in data.training.cache.tokens[:].tolist())
    return stream.replace(" ##", "").split()


def rows_of(data: PreparedData) -> npt.NDArray[np.int64]:
    """All rows to train on."""
    return data.training.index.rows(np.arange(data.training.count))


def test_text_becomes_examples(text: str, cache_dir: Path) -> None:
    data = prepare(configure(), cache_dir, corpus=[text])
    assert words_of(data) == Path(text).read_text().split()
    assert data.training.tokens + data.held_out.tokens == data.report["tokens"]
    assert (data.report["documents"], data.report["sentences"]) == (60, 180)
    batch = data.training.batch(np.arange(3), 16, data.tokenizer.special_tokens)
    assert (batch.input_ids[:, 0] == data.tokenizer.special_tokens.cls).all()


def test_a_second_start_reads_only_the_cache(text: str, cache_dir: Path) -> None:
    first = prepare(configure(), cache_dir, corpus=[text])
    stages: list[str] = []
    again = prepare(
        configure(), cache_dir, corpus=[text], progress=lambda stage, *_: stages.append(stage)
    )
    assert set(stages) == {"hashing the text", "tokenizing"}
    assert again.key == first.key
    assert again.report == first.report
    assert again.tokenizer.vocab == first.tokenizer.vocab
    np.testing.assert_array_equal(rows_of(again), rows_of(first))


def test_what_tokens_depend_on_is_in_their_key(text: str, cache_dir: Path) -> None:
    vocabulary = prepare(configure(), cache_dir, corpus=[text]).tokenizer.vocab
    other = Path(text).with_name("other.txt")
    other.write_text(Path(text).read_text() + "more\n")

    def key(path: str, vocabulary: tuple[str, ...] = vocabulary, **changes: Any) -> str:
        return prepare(configure(**changes), cache_dir, corpus=[path], vocabulary=vocabulary).key

    keys = [key(text), key(text, lowercase=False), key(text, vocabulary[:-1]), key(str(other))]
    assert len(set(keys)) == 4
    assert key(text, max_length=20, seed=7) == keys[0]


def test_a_vocabulary_is_trained_anew_for_another_size_or_case(
    cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(" ".join(["Alpha", *WORDS] * 60))

    def vocabulary(**changes: Any) -> tuple[str, ...]:
        return prepare(
            configure(**changes), cache_dir, corpus=[str(tmp_path / "a.txt")]
        ).tokenizer.vocab

    assert len(vocabulary(vocab_size=40)) == 40
    assert len(vocabulary(vocab_size=50)) == 50
    assert "A" not in vocabulary(vocab_size=50)
    assert "A" in vocabulary(vocab_size=50, lowercase=False)


def test_a_resumed_run_needs_its_cache_or_its_corpus(text: str, cache_dir: Path) -> None:
    first = prepare(configure(), cache_dir, corpus=[text])

    def resume() -> PreparedData:
        return prepare(
            configure(),
            cache_dir,
            corpus=[text],
            vocabulary=first.tokenizer.vocab,
            known_key=first.key,
        )

    content = Path(text).read_bytes()
    Path(text).unlink()
    np.testing.assert_array_equal(rows_of(resume()), rows_of(first))
    (shard,) = first.training.cache.shards
    (shard.path / "tokens.bin").unlink()
    with pytest.raises(UserError, match="No such file"):
        resume()
    Path(text).write_bytes(content + b"changed")
    with pytest.raises(UserError, match="not the one this run began with"):
        resume()
    Path(text).write_bytes(content)
    np.testing.assert_array_equal(rows_of(resume()), rows_of(first))


def test_standard_input_is_read_once_and_leaves_nothing(
    text: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_file = prepare(configure(), cache_dir, corpus=[text])
    names = sorted(path.name for path in cache_dir.iterdir())
    with open(text, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped = prepare(configure(), cache_dir, corpus=["-"])
    assert piped.key == from_file.key
    assert piped.report["documents"] == 60
    assert sorted(path.name for path in cache_dir.iterdir()) == names


def test_standard_input_is_not_opened_by_a_name(
    text: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, a descriptor that is opened as /dev/fd/N goes on where the first one stands."""

    really_open = open

    def as_on_macos(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).startswith("/dev/fd/"):
            path = os.dup(int(str(path).rpartition("/")[2]))
        return really_open(path, *arguments, **options)

    with open(text, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        monkeypatch.setattr("builtins.open", as_on_macos)
        piped = prepare(configure(), cache_dir, corpus=["-"])
    assert words_of(piped) == Path(text).read_text().split()


def test_standard_input_may_be_json_lines(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": "not this", "body": " ".join(WORDS)}) for _ in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    from_file = prepare(configure(), cache_dir, corpus=[str(path)], text_key="body")
    with open(path, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped = prepare(configure(), cache_dir, corpus=["-"], text_key="body")
    assert words_of(piped) == 60 * WORDS
    assert piped.key == from_file.key
    assert (piped.report["object_files"], piped.report["documents"]) == (1, 60)


def test_another_key_of_the_text_is_another_corpus(cache_dir: Path, tmp_path: Path) -> None:
    line = json.dumps({"text": " ".join(WORDS), "body": " ".join(reversed(WORDS))})
    (tmp_path / "a.jsonl").write_text((line + "\n") * 60)
    corpus = [str(tmp_path / "a.jsonl")]
    first = prepare(configure(), cache_dir, corpus=corpus)
    other = prepare(configure(), cache_dir, corpus=corpus, text_key="body")
    assert first.key != other.key
    assert words_of(other) == 60 * WORDS[::-1]


def test_a_key_without_json_lines_is_an_error(text: str, cache_dir: Path) -> None:
    with pytest.raises(UserError, match="--text-key body: the corpus has neither JSON lines nor"):
        prepare(configure(), cache_dir, corpus=[text], text_key="body")
    prepare(configure(), cache_dir, corpus=[text], text_key="text")


def test_what_a_folder_holds_besides_is_reported(text: str, cache_dir: Path) -> None:
    folder = Path(text).parent / "folder"
    folder.mkdir()
    Path(text).rename(folder / "text.txt")
    for name in ("wiki_00", "wiki_01"):
        (folder / name).write_text("text")
    for _ in range(2):  # the second time from the cache
        report = prepare(configure(), cache_dir, corpus=[str(folder)]).report
        assert (report["skipped"], report["skipped_names"]) == (2, ["'wiki_00'", "'wiki_01'"])
        assert "skipped_runs" not in report


@pytest.mark.parametrize("kind", ["file", "standard input"])
def test_a_corpus_that_turns_bad_leaves_nothing(
    kind: str, text: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good part of it was read before."""
    good = Path(text).read_bytes()
    Path(text).write_bytes(good * 300 + b"caf\xe9 au lait\n" * 30_000 + good * 300)
    with open(text, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(UserError, match="iconv"):
            prepare(configure(), cache_dir, corpus=["-" if kind == "standard input" else text])
    assert [path.name for path in cache_dir.iterdir() if not path.name.endswith(".lock")] == []
    Path(text).write_bytes(good)
    assert words_of(prepare(configure(), cache_dir, corpus=[text])) == good.decode().split()


def test_standard_input_twice_or_closed_is_a_user_error(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="only once"):
        prepare(configure(), cache_dir, corpus=["-", "-"])
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="closed"):
        prepare(configure(), cache_dir, corpus=["-"])


@pytest.mark.parametrize(
    "content", ["", "\n\n \n", "word", "a few words only\n\nand then the end\n"]
)
def test_too_little_text_is_one_line(content: str, cache_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError) as caught:
        prepare(configure(), cache_dir, corpus=[str(tmp_path / "a.txt")])
    assert "\n" not in str(caught.value)


def test_one_document_in_one_line_still_has_a_held_out_part(
    cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(" ".join(WORDS * 100))
    data = prepare(configure(), cache_dir, corpus=[str(tmp_path / "a.txt")])
    assert data.report["documents"] == 1
    assert data.held_out.tokens > 0
    assert data.training.tokens >= data.held_out.tokens


def test_token_ids_come_back_under_their_own_names(cache_dir: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, 3000)
    np.save(tmp_path / "ids.npy", ids)
    data = prepare(configure(), cache_dir, ids_paths=[str(tmp_path / "ids.npy")])
    assert words_of(data) == [str(i) for i in ids]
    assert len(data.tokenizer.vocab) == 5 + ids.max() + 1
    assert data.held_out.count > 0
    vocabulary = data.tokenizer.vocab
    (tmp_path / "ids.npy").unlink()
    again = prepare(
        configure(), cache_dir, ids_paths=["gone"], vocabulary=vocabulary, known_key=data.key
    )
    np.testing.assert_array_equal(rows_of(again), rows_of(data))


def test_what_token_ids_may_mean_is_a_note_of_every_start(cache_dir: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 50, (40, 20))
    rows[7] = -1
    np.save(tmp_path / "ids.npy", rows)
    for _ in range(2):
        data = prepare(configure(), cache_dir, ids_paths=[str(tmp_path / "ids.npy")])
        assert data.report["documents"] == 39
        (note,) = data.report["notes"]
        assert note.startswith("1 of 40 rows of")


def test_token_ids_that_change_while_they_are_read_are_refused(
    cache_dir: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "ids.npy", np.arange(1000))

    def change(stage: str, _done: int, _total: int) -> None:
        if stage == "copying the token ids":
            np.save(tmp_path / "ids.npy", np.arange(1000)[::-1])
            os.utime(tmp_path / "ids.npy", (1, 1))

    with pytest.raises(UserError, match="has changed"):
        prepare(configure(), cache_dir, ids_paths=[str(tmp_path / "ids.npy")], progress=change)
    assert not list(cache_dir.glob("ids-*"))


def test_without_a_corpus_the_embedded_one_is_read_once(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    for i in range(30):
        sources.append(tmp_path / f"module_{i}.py")
        sources[i].write_text(
            f'"""Module number {i} explains what the word {WORDS[i % 10]} means."""'
        )
    monkeypatch.setattr(embedded_corpus, "documentation_files", lambda: sources)
    first = prepare(configure(), cache_dir)
    assert first.report["documents"] == 30
    monkeypatch.setattr(embedded_corpus, "read_documentation", None)
    assert prepare(configure(), cache_dir).key == first.key


@pytest.mark.parametrize(
    "stage",
    ["hashing the text", "training the vocabulary", "merging pieces", "tokenizing", "packing"],
)
def test_a_stop_at_any_stage_leaves_nothing_half_built(
    stage: str, text: str, cache_dir: Path
) -> None:
    def stop(now: str, _done: int, _total: int) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(configure(), cache_dir, corpus=[text], progress=stop)
    assert not list(cache_dir.glob(".*.tmp"))
    assert words_of(prepare(configure(), cache_dir, corpus=[text]))


def test_a_huge_corpus_trains_its_vocabulary_on_a_sample(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"word{i} and more text\n\n" for i in range(1000)]
    (tmp_path / "a.txt").write_text("".join(lines))
    seen: list[str] = []

    def train(texts: Iterator[str], _size: int, **_: Any) -> list[str]:
        seen.extend(texts)
        return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]

    size = sum(map(len, lines))
    monkeypatch.setattr(corpus_sample, "BLOCK_BYTES", 300)
    monkeypatch.setattr(prepare_module, "train_vocabulary", train)
    monkeypatch.setattr(prepare_module, "VOCABULARY_BYTES", size // 2)
    told: list[tuple[str, int, int]] = []
    corpus = [str(tmp_path / "a.txt")]
    prepare(configure(), cache_dir, corpus=corpus, progress=lambda *now: told.append(now))
    assert 400 < len(seen) < 600
    assert {text + "\n\n" for text in seen} < set(lines)
    _, done, total = [now for now in told if now[0] == "training the vocabulary"][-1]
    assert abs(done - sum(map(len, seen))) <= 2 * len(seen)
    assert done == total


CHINESE = "\n\n".join("".join(chr(0x4E00 + i + j) for j in range(40)) for i in range(0, 2040, 40))


def test_a_large_alphabet_raises_a_size_that_was_not_asked_for(
    cache_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(CHINESE + "\n\nabcdefgh" * 5)

    def prepared(**changes: Any) -> PreparedData:
        config = PretrainingConfig(preset="tiny", max_length=16, **changes)
        return prepare(config, cache_dir, corpus=[str(tmp_path / "a.txt")])

    for _ in range(2):  # trained, then from the cache
        data = prepared(max_vocab_size=2048)
        assert len(data.tokenizer.vocab) == 5 + 2040 + 8 + 7
        assert len(data.report["notes"]) == 1
        assert (
            "take 2,048 entries, so its vocabulary has 2,060 and not 2,048"
            in data.report["notes"][0]
        )
    for changes in ({"max_vocab_size": 2047}, {"max_vocab_size": 2048, "vocab_size": 2048}):
        with pytest.raises(UserError, match="alone are 2053; ask for at least 2053"):
            prepared(**changes)
    enough = prepared(max_vocab_size=2053)
    assert len(enough.tokenizer.vocab) == 2053
    assert enough.report["notes"] == []


@pytest.fixture
def always_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every cache folder one that another process is building just now."""

    def open_late(*arguments: Any, **options: Any) -> Any:
        on_wait = arguments[3]
        on_wait()
        return open_or_build(*arguments, **options)

    for module in (prepare_module, examples_module, tokenizing, id_shards):
        monkeypatch.setattr(module, "open_or_build", open_late)


@pytest.mark.usefixtures("always_waiting")
def test_progress_tells_each_stage_what_is_done_of_the_whole(
    text: str, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Path(text).stat().st_size
    block = size // 3 + 1
    monkeypatch.setattr(corpus_file, "BLOCK_BYTES", block)
    told: list[tuple[str, int, int]] = []
    prepare(configure(), cache_dir, corpus=[text], progress=lambda *now: told.append(now))
    merging = [now for now in told if now[0] == "merging pieces"]
    found = merging[-1][1]
    assert {done for _, done, _ in merging} == set(range(found + 1))
    assert {total for _, _, total in merging} == {merging[0][2]}
    told = list(dict.fromkeys(now for now in told if now not in merging))
    counts = [(block, size), (2 * block, size), (size, size)]
    waiting = ("waiting", 0, 0)
    assert told == [
        *(("hashing the text", *count) for count in counts),
        *(waiting, *(("training the vocabulary", *count) for count in counts)),
        *(("tokenizing", *count) for count in [(0, size), *counts]),
        ("packing", 0, 1440),
    ]


@pytest.mark.usefixtures("always_waiting")
def test_progress_counts_token_ids(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_ids, "LONGEST_ID_DOCUMENT", 400)
    np.save(tmp_path / "ids.npy", np.arange(1000))
    told: list[tuple[str, int, int]] = []
    prepare(
        configure(),
        cache_dir,
        ids_paths=[str(tmp_path / "ids.npy")],
        progress=lambda *now: told.append(now),
    )
    told = list(dict.fromkeys(told))
    counts = [(400, 1000), (800, 1000), (1000, 1000)]
    assert told == [
        *(("checking the token ids", *count) for count in counts),
        *(("copying the token ids", *count) for count in [(0, 1000), *counts]),
        ("waiting", 0, 0),
        ("packing", 0, 1000),
    ]


def test_progress_counts_standard_input_and_the_documentation(
    text: str, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    size = Path(text).stat().st_size
    monkeypatch.setattr(named_files, "BLOCK_BYTES", size - 100)
    with open(text, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        prepare(configure(), cache_dir, corpus=["-"], progress=lambda *now: told.append(now))
    assert told[:2] == [
        ("reading standard input", size - 100, 0),
        ("reading standard input", size, 0),
    ]
    sources = [tmp_path / f"{i}.py" for i in range(3)]
    for i, path in enumerate(sources):
        path.write_text('"""Each word explains another word here."""' + "#" * i)
    sizes = [path.stat().st_size for path in sources]
    monkeypatch.setattr(embedded_corpus, "documentation_files", lambda: sources)
    told.clear()
    with pytest.raises(UserError, match="too small"):
        prepare(configure(), cache_dir, progress=lambda *now: told.append(now))
    done = [0, sizes[0], sizes[0] + sizes[1]]
    assert told[:3] == [("reading the installed documentation", d, sum(sizes)) for d in done]


def test_cache_folders_are_named_after_what_they_hold(
    text: str, cache_dir: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "ids.npy", np.arange(1000))
    prepare(configure(), cache_dir, corpus=[text])
    prepare(configure(), cache_dir, ids_paths=[str(tmp_path / "ids.npy")])
    names = [path.name for path in cache_dir.iterdir() if not path.name.startswith(".")]
    assert sorted(name.partition("-")[0] for name in names) == [
        *("examples", "examples", "ids", "shard", "tokens", "tokens", "vocabulary")
    ]


def test_the_vocabulary_comes_from_all_of_a_corpus_below_256_mib() -> None:
    assert prepare_module.VOCABULARY_BYTES == 256 * 2**20


def test_a_stop_is_heard_while_standard_input_is_silent(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may take their time to write, or never do."""
    ours, theirs = os.pipe()
    told: list[str] = []

    def stop_at_the_third(stage: str, _done: int, _total: int) -> None:
        told.append(stage)
        if len(told) == 3:
            raise KeyboardInterrupt

    with open(ours, encoding="utf-8") as silent:
        monkeypatch.setattr("sys.stdin", silent)
        with pytest.raises(KeyboardInterrupt):
            prepare(configure(), cache_dir, corpus=["-"], progress=stop_at_the_third)
    os.close(theirs)
    assert told == ["reading standard input"] * 3
