"""Questions with choices: JSON lines, SWAG, RACE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.choice_record import ChoiceRecord
from electra_ref.training.finetuning.formats.choices import choice_records
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use
from tests.finetuning_files import read, write

QUESTION = {"id": "q", "context": "c", "question": "?", "choices": ["a", "b", "d"], "label": 2}
RACE = {
    "id": "high1.txt",
    "article": "An article.",
    "questions": ["Why _ ?", "Who?"],
    "options": [["a", "b", "c", "d"], ["e", "f", "g", "h"]],
    "answers": ["D", "A"],
}
SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '0,v,17,"A b. She","A, b.",She,gold,"runs, fast.",walks.,sits.,"says ""no"".",3\n'
)


def records(
    folder: Path, name: str, text: str, use: Use = "train"
) -> tuple[list[ChoiceRecord], Tally]:
    def read_records(file: Any, tally: Tally) -> Any:
        return choice_records(file, "auto", use, tally)

    return read(write(folder, name, text), read_records)


def error(folder: Path, name: str, text: str, use: Use = "train") -> str:
    with pytest.raises(UserError) as caught:
        records(folder, name, text, use)
    return str(caught.value).removeprefix(str(folder))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    second = {"choices": ["x", "y"], "label": "1", "context": None}
    text = f"{json.dumps(QUESTION)}\n{json.dumps(second)}\n"
    found, _ = records(tmp_path, name, text)
    place = tmp_path / name
    assert found == [
        ChoiceRecord("c", "?", ("a", "b", "d"), 2, "q", f"{place}, line 1"),
        ChoiceRecord("", "", ("x", "y"), 1, None, f"{place}, line 2"),
    ]
    (first, _), _ = records(tmp_path, name, text, "predict")
    assert first.label is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": 3}, "the label 3 is none of the 3 choices, which are counted from 0 to 2"),
        ({"label": -1}, "the label -1 is none of the 3 choices"),
        ({"label": "B"}, "the label 'B' is none of the 3 choices"),
        ({"label": "1" * 5000}, f"the label '{'1' * 39} is none of the 3 choices"),
        ({"label": True}, "the label True is none of the 3 choices"),
        ({"label": 1.0}, "the label 1.0 is none of the 3 choices"),
        ({"choices": ["a"]}, "a question with 1 choices; it needs two or more"),
        ({"choices": "ab"}, "expected an array 'choices', not a string"),
        ({"choices": ["a", 5]}, "expected a string 'choices', not a number"),
        ({"context": ["c"]}, "expected a string 'context', not an array"),
    ],
)
def test_wrong_questions(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    text = f"{json.dumps(QUESTION)}\n{json.dumps({**QUESTION, **changes})}\n"
    assert error(tmp_path, "a.jsonl", text).startswith(f"/a.jsonl, line 2: {message}")


@pytest.mark.parametrize("key", ["label", "choices"])
def test_missing_keys(tmp_path: Path, key: str) -> None:
    question = {name: value for name, value in QUESTION.items() if name != key}
    message = error(tmp_path, "a.jsonl", json.dumps(question))
    assert message.startswith(f"/a.jsonl, line 1: no {key!r}")
    assert message.endswith(f"the keys are {', '.join(question)}")


def test_swag(tmp_path: Path) -> None:
    found, tally = records(tmp_path, "a.csv", SWAG)
    endings = ("runs, fast.", "walks.", "sits.", 'says "no".')
    assert found == [
        ChoiceRecord("A, b.", "She", endings, 3, "17", f"{tmp_path / 'a.csv'}, line 2")
    ]
    assert next(tally.lines()) == "columns between commas, quoted; those of SWAG"


def test_test_set_of_swag(tmp_path: Path) -> None:
    header, row, _ = SWAG.split("\n")
    text = f"{header.removesuffix(',label')}\n{row.removesuffix(',3')}\n"
    assert records(tmp_path, "a.csv", text, "predict")[0][0].label is None
    message = error(tmp_path, "a.csv", text)
    assert message.startswith("/a.csv, line 1: SWAG has sent1, ")
    assert "missing: label;" in message


def test_labels_of_swag(tmp_path: Path) -> None:
    message = error(tmp_path, "a.csv", SWAG.replace(",3\n", ",4\n"))
    assert message.startswith("/a.csv, line 2: the label '4' is none of the 4 choices")


@pytest.mark.parametrize("key", ["id", "fold-ind"])
def test_an_id_that_json_cannot_write(tmp_path: Path, key: str) -> None:
    """The number is read as infinity."""
    swag = {"sent1": "A.", "sent2": "B", **{f"ending{n}": str(n) for n in range(4)}, "label": 1}
    text = json.dumps(QUESTION if key == "id" else swag | {key: "q"}).replace('"q"', "[1e999]")
    message = error(tmp_path, "a.jsonl", f"\n{text}\n", "predict")
    assert message.startswith(f"/a.jsonl, line 2: the answer cannot repeat its {key!r} (")


def test_swag_in_json(tmp_path: Path) -> None:
    values = {"sent1": "A.", "sent2": "B", "label": 1, **{f"ending{n}": str(n) for n in range(4)}}
    found, _ = records(tmp_path, "a.json", json.dumps(values, indent=1) * 2)
    assert [record[:5] for record in found] == [("A.", "B", ("0", "1", "2", "3"), 1, None)] * 2
    message = error(tmp_path, "a.jsonl", json.dumps({**values, "ending2": 5}))
    assert message == "/a.jsonl, line 1: expected a string 'ending2'"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz"])
def test_race(tmp_path: Path, name: str) -> None:
    found, _ = records(tmp_path, name, json.dumps(RACE))
    assert [record[:5] for record in found] == [
        ("An article.", "Why _ ?", ("a", "b", "c", "d"), 3, "high1.txt-0"),
        ("An article.", "Who?", ("e", "f", "g", "h"), 0, "high1.txt-1"),
    ]


def test_race_without_answers(tmp_path: Path) -> None:
    text = json.dumps({key: value for key, value in RACE.items() if key not in ("answers", "id")})
    found, _ = records(tmp_path, "a.jsonl", text, "predict")
    assert [(record.label, record.id) for record in found] == [(None, None)] * 2
    assert error(tmp_path, "a.jsonl", text).startswith("/a.jsonl, line 1: expected an array 'answ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["A"]}, "2 questions, but 1 'answers'"),
        ({"options": [["a", "b"]]}, "2 questions, but not as many lists of 'options'"),
        ({"answers": ["A", "E"]}, "the answer 'E' is none of A, B, C, D"),
        ({"answers": ["A", ""]}, "the answer '' is none of A, B, C, D"),
        ({"options": [["a", "b"], ["c"]]}, "the answer 'D' is none of A, B"),
    ],
)
def test_wrong_race(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    text = json.dumps({**RACE, **changes})
    assert error(tmp_path, "a.jsonl", text) == f"/a.jsonl, line 1: {message}"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    assert error(tmp_path, name, "").startswith(f"/{name} is empty")
    if name != "a.csv":  # which needs a header
        assert records(tmp_path, name, "", "predict")[0] == []
