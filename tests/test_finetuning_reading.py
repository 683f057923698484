"""What reading a labelled file says of what it left out."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.finetuning.reading import ReadFile, read_labelled, read_training
from electra_ref.training.finetuning.table import task_of
from tests.finetuning_files import write
from tests.small_finetuning import run_finetune, write_encoder

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "caf")


def read(kind: str, path: str) -> ReadFile:
    task = task_of(kind)
    tokenizer = WordPiece(WORDS)
    return read_training(task, path, tokenizer, task.TABLE(), lambda: None)[0]


def test_a_file_without_a_usable_record_says_what_was_left_out(tmp_path: Path) -> None:
    question = {"id": "a", "question": "Who?", "answers": [{"text": "dog", "answer_start": 4}]}
    paragraph = {"context": "The cat sat.", "qas": [question]}
    path = write(tmp_path, "train.json", json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    with pytest.raises(UserError) as error:
        read("span-extraction", path)
    assert str(error.value) == (
        f"{path} holds nothing to learn from; 1 question skipped: the answer is not in the "
        f"context where the file says (the first: {path}, article 1, paragraph 1, question 1, id a)"
    )


@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz", "my train"])
@pytest.mark.parametrize("header", ["text\tlabel", "wrong\theader"])
def test_a_file_in_another_encoding_is_refused_with_what_converts_it(
    header: str, name: str, tmp_path: Path
) -> None:
    """The encoding is named even where the text is wrong as well."""
    data = f"{header}\ngood café\t1\nbad café\t0\n".encode("latin-1")
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(UserError) as error:
        read("classification", str(path))
    convert, to = "iconv -f WINDOWS-1252 -t UTF-8", " (or from WINDOWS-1251, GB18030, SHIFT_JIS, "
    command = {
        "train.tsv": f"{convert} {path} > {path}.utf8.tsv",
        "train.tsv.gz": f"gzip -dc {path} | {convert} > {path}.utf8.tsv",
        "my train": f"{convert} '{path}' > '{path}.utf8'",
    }[name]
    share = 100 * 2 / len(data)
    assert str(error.value) == (
        f"{path}: {share:.1f} % of the bytes are not valid UTF-8, so the text is probably in "
        f"another encoding; convert it, for example: {command}{to}...; iconv -l lists them all)"
    )


def test_dev_data_in_another_encoding_are_refused(tmp_path: Path) -> None:
    task = task_of("classification")
    path = tmp_path / "dev.tsv"
    path.write_bytes("text\tlabel\ngood\t1\nbad\t0\ncaf\t\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="probably in another encoding"):
        read_labelled(task, str(path), WordPiece(WORDS), task.TABLE(), ("0", "1"), lambda: None)


def test_a_single_invalid_byte_is_said_without_a_plural(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    rows = "good\t1\nbad\t0\n" * 20
    path.write_bytes(f"text\tlabel\ncafé\t1\n{rows}".encode("latin-1"))
    lines = read("classification", str(path)).lines
    assert lines[-1] == "1 invalid byte left out"  # too few for another encoding


@pytest.mark.parametrize(
    ("kind", "name", "text", "line"),
    [
        ("classification", "a.tsv", "text\tlabel\ngood cat\t1\nbad\t0\n", "1 of 3 ({0}, line 2)"),
        ("regression", "a.tsv", "text\tlabel\ngood cat\t1\nbad\t0\n", "1 of 3 ({0}, line 2)"),
        ("tagging", "a.conll", "good X\nbad Y\ncat X\n", "1 of 3 ({0}, line 1)"),
        (
            "multiple-choice",
            "a.jsonl",
            '{"question": "good", "choices": ["bad", "cat"], "label": 0}\n',
            "1 of 4 ({0}, line 1)",
        ),
        (
            "span-extraction",
            "a.jsonl",
            '{"id": "a", "question": "cat good", "context": "bad good bad cat", '
            '"answers": [{"text": "bad", "answer_start": 0}]}\n',
            "2 of 6 (id a)",
        ),
    ],
)
def test_the_share_of_unknown_pieces_is_said_for_each_kind(
    kind: str, name: str, text: str, line: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, text)
    found = read(kind, path)
    counts, place = line.format(path)[:-1].split(" (")
    said = f"warning: {counts} pieces in all rows"
    (own,) = (line for line in found.lines if line.startswith(said))
    assert f"are [UNK] (the first: 'cat', {place}): " in own
    assert found.facts["unknown_tokens"] == int(counts[0])


def test_what_only_the_training_data_tell_is_kept_by_the_run(tmp_path: Path) -> None:
    """The scheme of the tags: without it, entities of IOB1 would be written in another scheme."""
    sentences = "good I-X\nbad O\n\nbad I-X\ngood B-X\n\n"  # B only between neighbours: IOB1
    path = Path(write(tmp_path, "train.conll", sentences))
    model = write_encoder(tmp_path / "model")
    output = tmp_path / "run"
    assert run_finetune(model, "tagging", path, path, output, "--max-steps", "1") == 0
    kept = tomllib.loads((output / "config.toml").read_text(encoding="utf-8"))
    assert kept["tag_scheme"] == "iob1"
    assert read("tagging", str(path)).facts["records"] == 2
