"""Which settings a fine-tuned model takes for a prediction: each reaches the answers.

A new setting of a kind of task is refused here until ``SETTABLE`` and ``CASES`` have it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from electra_ref import predict
from electra_ref.training.finetuning.kinds import KINDS, SETTABLE
from electra_ref.training.finetuning.table import task_of
from tests.huggingface_tasks import draw_stored, write_run

WHERE = ["--device", "reference", "--precision", "float64"]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("many labels", {}),
    "regression": ("a number", {}),
    "tagging": ("tags", {"tag_scheme": "iob1"}),
    "span-extraction": ("spans", {"head": "original", "no_answer": True, "max_query_length": 8}),
    "multiple-choice": ("choices", {}),
}

pytestmark = pytest.mark.usefixtures("quick")


class Case(NamedTuple):
    """A value that changes what is said of a file."""

    value: str
    name: str
    text: str


LONG = " ".join("abcdefgh" * 5)
TEXTS = {
    "max_length": Case("8", "a.txt", LONG),
    "file_format": Case("text", "a.jsonl", '{"text": "a b"}'),
    "text_column": Case("more", "a.jsonl", '{"text": "a b", "more": "c"}'),
    "text_pair_column": Case("more", "a.jsonl", '{"text": "a b", "more": "c"}'),
    "label_column": Case("content", "a.jsonl", '{"headline": "a b", "content": "c"}'),
    "quoting": Case("quoted", "a.tsv", 'text\tid\n"a b"\t1\n'),
    "glue": Case("rte", "a.tsv", 'sentence1\tsentence2\n"a ""b"""\tc\n'),
}
QUESTION = json.dumps({"context": LONG, "question": "a b c d", "id": "1"})
SWAG = f'sent1,sent2,ending0,ending1,ending2,ending3\n"a",b,c,{LONG},e,f\n'
CASES: dict[str, dict[str, Case]] = {
    "classification": TEXTS,
    "regression": {
        **TEXTS,
        "glue": TEXTS["glue"]._replace(value="stsb"),
        "lowest_score": Case("-5", "a.txt", "a b"),
        "highest_score": Case("5", "a.txt", "a b"),
    },
    "tagging": {
        "max_length": Case("8", "a.txt", LONG),
        "data_format": Case("conll", "a.txt", "a X\n"),
        "word_column": Case("2", "a.conll", "a b\n"),
        "word_key": Case("more", "a.jsonl", '{"words": ["a"], "more": ["b", "c"]}'),
        "tag_scheme": Case("iobes", "a.txt", LONG),
    },
    "span-extraction": {
        "max_length": Case("20", "a.jsonl", QUESTION),
        "doc_stride": Case("5", "a.jsonl", QUESTION),
        "max_query_length": Case("1", "a.jsonl", QUESTION),
        "n_best": Case("2", "a.jsonl", QUESTION),
        "max_answer_length": Case("1", "a.jsonl", QUESTION),
        "beam_size": Case("1", "a.jsonl", QUESTION),
        "no_answer": Case("false", "a.jsonl", QUESTION),
        "null_threshold": Case("1e9", "a.jsonl", QUESTION),
    },
    "multiple-choice": {
        "max_length": Case("8", "a.csv", SWAG),
        "quoting": Case("none", "a.csv", SWAG),
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    sizes = {"vocab_size": 31, "max_position_embeddings": 60, "max_length": 36}
    return {
        kind: write_run(folder / kind, draw_stored(name, **{**sizes, **settings}))
        for kind, (name, settings) in MODELS.items()
    }


def test_every_kind_and_every_key_has_a_case() -> None:
    assert {kind: tuple(cases) for kind, cases in CASES.items()} == dict(SETTABLE)
    assert CASES.keys() == MODELS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "key"), [(kind, key) for kind, cases in CASES.items() for key in cases]
)
def test_what_can_be_set_changes_the_answers(
    kind: str, key: str, models: dict[str, Path], tmp_path: Path
) -> None:
    case = CASES[kind][key]
    (tmp_path / case.name).write_text(case.text)

    def answers(*flags: str) -> str:
        paths = ["--input", str(tmp_path / case.name), "--output", str(tmp_path / "out.jsonl")]
        assert predict.main(["--model", str(models[kind]), *paths, *WHERE, *flags]) == 0
        return (tmp_path / "out.jsonl").read_text()

    assert answers() != answers("--set", f"{key}={case.value}")


@pytest.mark.parametrize("kind", KINDS)
def test_all_other_settings_are_refused(
    kind: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("")
    paths = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    fields = [
        field for field in dataclasses.fields(task_of(kind).TABLE) if field.name not in CASES[kind]
    ]
    for field in fields:
        value = json.dumps(field.default)
        flags = ["--model", str(models[kind]), *paths, "--set", f"{field.name}={value}"]
        assert predict.main(flags) == 2
        said = capsys.readouterr().err
        assert f"error: --set {field.name}: a trained model has it" in said
        assert said.rstrip().endswith(f"these can be set: {', '.join(SETTABLE[kind])}")


def test_a_head_without_a_beam_has_no_size_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_run(tmp_path / "model", draw_stored("spans"))
    flags = ["--input", os.devnull, "--output", str(tmp_path / "out.jsonl")]
    assert predict.main(["--model", str(model), *flags, *WHERE, "--set", "beam_size=1"]) == 2
    assert "max_answer_length, no_answer, null_threshold\n" in capsys.readouterr().err


def test_help_says_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for kind, keys in SETTABLE.items():
        assert f"{kind}: {', '.join(keys)}" in said
