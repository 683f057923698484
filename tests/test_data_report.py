"""What a run says about its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.text.listing import NAMED_THEMSELVES
from electra_ref.text.prepare import prepare
from electra_ref.training.pretraining.data_report import data_lines

READ: dict[str, Any] = {
    "files": 2, "object_files": 0, "bytes": 1_000_000, "documents": 60, "sentences": 1800,
    "invalid_bytes": 0, "control_characters": 0, "cut_sentences": 0, "tokens": 20_000,
    "unknown_tokens": 0, "unknown_examined": 0, "unknown_too_long": 0, "unknown_characters": 0,
    "missing_characters": [],
}  # fmt: skip


def lines(**changes: Any) -> list[str]:
    return list(data_lines({**READ, **changes}))


def test_good_text_is_one_line() -> None:
    text = "text: 2 files, 60 documents, 1,800 sentences, 1,000,000 bytes"
    assert lines() == [f"{text}; 0.00 % of the tokens are [UNK]"]
    assert lines(unknown_tokens=1) == [f"{text}; under 0.01 % of the tokens are [UNK]"]
    assert lines(unknown_tokens=34) == [f"{text}; 0.17 % of the tokens are [UNK]"]
    assert lines(unknown_tokens=200) == [f"{text}; 1.0 % of the tokens are [UNK]"]
    one = lines(files=1, documents=1, sentences=1, bytes=1, object_files=1)
    several = lines(files=5, object_files=2, row_files=1)
    assert several[0].startswith("text: 5 files (2 of JSON lines, 1 of Parquet), 60 documents")
    assert one[0].startswith("text: 1 file (1 of JSON lines), 1 document, 1 sentence, 1 byte; ")


def test_token_ids_have_no_text() -> None:
    assert list(data_lines({"files": 1, "bytes": 80, "documents": 2, "tokens": 10})) == []


def test_a_cache_from_before_unknown_words_were_counted_says_less() -> None:
    old = {key: value for key, value in READ.items() if "unknown" not in key}
    assert list(data_lines(old)) == [
        "text: 2 files, 60 documents, 1,800 sentences, 1,000,000 bytes"
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"skipped": 4, "skipped_names": ["'a/wiki_00'", "'b'", "'c.json'"]},
            "4 files in folders were skipped, because their names do not end in .txt, .text, "
            ".jsonl or .parquet: 'a/wiki_00', 'b', 'c.json', ...; "
            f"{NAMED_THEMSELVES}",
        ),
        (
            {"skipped": 1, "skipped_names": ["'b'"]},
            "1 file in folders was skipped, because its name does not end in .txt, .text, "
            ".jsonl or .parquet: 'b'; "
            f"{NAMED_THEMSELVES}",
        ),
        ({"skipped_runs": ["r"]}, "1 run in folders of the corpus skipped: r"),
        (
            {"skipped_runs": [*"abcd"]},
            "4 runs in folders of the corpus skipped: a, b, c, ...",
        ),
        (
            {"invalid_bytes": 1234},
            "1,234 bytes of the text (0.12 %) are not valid UTF-8 and are left out",
        ),
        (
            {"invalid_bytes": 1},
            "1 byte of the text (under 0.01 %) is not valid UTF-8 and is left out",
        ),
        ({"control_characters": 2}, "2 control characters of the text are left out"),
        (
            {"cut_sentences": 3},
            "sentences (lines) longer than 65,536 characters were cut in 3 places; one sentence a "
            "line is better",
        ),
    ],
)
def test_what_was_left_out_is_said(changes: dict[str, Any], line: str) -> None:
    assert lines(**changes)[1:] == [line]


def warnings(**changes: Any) -> list[str]:
    return lines(unknown_tokens=5000, **changes)[1:]


def test_the_warning_names_the_causes_that_were_measured() -> None:
    start = "warning: 25.0 % of the tokens are [UNK]; "
    too_long = f"{start}60.0 % of these are words of more than 100 characters"
    foreign = f"{start}30.0 % of these have characters that the vocabulary lacks, most often "
    found = {"unknown_examined": 100, "unknown_too_long": 60, "unknown_characters": 30}
    both = warnings(**found, missing_characters=["\u0436", "\u05d0"])
    assert [line.partition(":")[0] for line in both] == ["warning", "warning"]
    assert both[0].startswith(too_long)
    assert both[1].startswith(foreign + "\u0436 (U+0436), \u05d0 (U+05D0)")
    assert "another language" in both[1]
    rest = warnings(unknown_examined=100, unknown_too_long=19, unknown_characters=1,
                    missing_characters=["x"])  # fmt: skip
    assert len(rest) == 1
    assert rest[0].startswith(f"{start}80.0 % of these have only characters that")
    upper = warnings(unknown_examined=5, unknown_characters=5, missing_characters=["A", "\u0416"])
    assert "lowercase = true" in upper[0]
    assert "another language" not in upper[0]


def test_one_percent_is_no_warning() -> None:
    causes = {"unknown_examined": 10, "unknown_too_long": 10}
    assert len(lines(unknown_tokens=200, **causes)) == 1
    assert len(lines(unknown_tokens=201, **causes)) == 2


def write(path: Path, line: str) -> str:
    path.write_text((line + "\n\n") * 60, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("a few good words " + "\u0e01\u0e02\u0e03" * 50, "text without spaces"),
        ("a few good words \u043c\u044b \u043f\u043e\u0448\u043b\u0438", "another language"),
        ("a few good words", ""),
    ],
)
def test_the_cause_of_a_real_text(line: str, cause: str, tmp_path: Path) -> None:
    """A vocabulary of English; Thai without spaces, Russian, English."""
    config = PretrainingConfig(max_vocab_size=100, max_length=16, held_out_fraction=0.2)
    (tmp_path / "cache").mkdir()
    english = write(tmp_path / "english.txt", "a few good words")
    vocabulary = prepare(config, tmp_path / "cache", corpus=[english]).tokenizer.vocab
    text = write(tmp_path / "text.txt", line)
    data = prepare(config, tmp_path / "cache", corpus=[text], vocabulary=vocabulary)
    found = [line for line in data_lines(data.report) if line.startswith("warning")]
    assert [cause in line for line in found] == ([True] if cause else [])
