"""Predictions of fine-tuned models: in order, the same bits in any company, in bounded memory."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import predict
from electra_ref.errors import UserError
from electra_ref.model.objectives import fine_tuning
from electra_ref.training.finetuning import answering, data, prediction
from electra_ref.training.finetuning.data import LabelledData
from electra_ref.training.finetuning.encoder_source import find_encoder
from electra_ref.training.finetuning.saved import find_fine_tuned
from electra_ref.training.finetuning.table import task_of
from electra_ref.training.finetuning.task import Output
from electra_ref.training.finetuning.tasks import classification
from electra_ref.training.prediction.source import open_source
from electra_ref.training.stop_signals import StopSignals
from tests.huggingface_tasks import draw_stored, write_run
from tests.small_finetuning import examples
from tests.small_runs import quiet

KINDS = {
    "tags": "tagging",
    "many labels": "classification",
    "a number": "regression",
    "choices": "multiple-choice",
    "spans": "span-extraction",
    "original spans": "span-extraction",
}
SPANS = ("spans", "original spans")
WHERE = ["--device", "reference", "--precision", "float64"]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with random numbers for each kind of task, and for each head that finds spans."""
    folder = tmp_path_factory.mktemp("models")
    sizes: dict[str, Any] = {"vocab_size": 31, "max_position_embeddings": 60, "max_length": 50}
    windows = {"max_length": 20, "doc_stride": 5, "no_answer": True}
    changes: dict[str, dict[str, Any]] = {
        "spans": windows,
        "original spans": {**windows, "head": "original"},
    }
    return {
        name: write_run(
            folder / name,
            draw_stored(name.removeprefix("original "), **{**sizes, **changes.get(name, {})}),
        )
        for name in KINDS
    }


def lines_of(name: str, count: int = 40) -> list[str]:
    """Return records of different lengths, each with its number as id where there is one."""
    found = []
    numbers = random.Random(0)
    for number, example in enumerate(examples(KINDS[name], count, seed=3)):
        more = ["a", "b", "c"] * numbers.randrange(5)
        if "words" in example:
            example["words"] += more
            del example["tags"]
        elif "choices" in example:
            example["question"] += " ".join(["", *more])
        elif "context" in example:
            example["context"] += " ".join(["", *more, *more])
            del example["answer"]
        else:
            example["text"] += " ".join(["", *more])
        own = str(number) if "context" in example else number
        found.append(json.dumps({**example, "id": own}))
    return found


def answers(model: Path, folder: Path, lines: list[str], *flags: str) -> list[str]:
    """Return the lines that the command writes for ``lines``."""
    (folder / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
    paths = ["--input", str(folder / "in.jsonl"), "--output", str(folder / "out.jsonl")]
    assert predict.main(["--model", str(model), *paths, *flags]) == 0
    return (folder / "out.jsonl").read_text().splitlines()


@pytest.mark.parametrize("name", KINDS)
def test_answers_have_the_order_of_the_records(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    lines = lines_of(name)
    for flags in ((), ("--batch-tokens", "64")):
        found = [
            json.loads(line) for line in answers(models[name], tmp_path, lines, *WHERE, *flags)
        ]
        assert [int(one["id"]) for one in found] == list(range(40))
        if name == "tags":
            assert [one["words"] for one in found] == [json.loads(x)["words"] for x in lines]


def test_what_cannot_be_written_so_leaves_no_header(
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any) -> list[str]:
        raise UserError("one label a text")

    monkeypatch.setitem(vars(classification)["OUTPUTS"], "glue", Output(refuse, ["index"]))
    (tmp_path / "in.jsonl").write_text(f"{lines_of('many labels')[0]}\n")
    given = ["--model", str(models["many labels"]), "--input", str(tmp_path / "in.jsonl"), *WHERE]
    assert predict.main([*given, "--format", "glue"]) == 2
    said = capfd.readouterr()
    assert "one label a text" in said.err
    assert said.out == ""


def test_a_fine_tuned_model_did_not_begin_with_random_numbers(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="is fine-tuned, so it did not begin with random numbers"):
        find_encoder(models["tags"]).start()


def bits_of(prediction: Any) -> str:
    """Return what no two different predictions have in common; ``repr`` rounds arrays."""
    return b"".join(data._pieces(prediction, "")).hex()


def test_words_that_the_vocabulary_lacks_are_counted(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(models["tags"], tmp_path, ['{"words": ["a", "\u2603", "b"]}'], *WHERE)
    said = capsys.readouterr().err
    assert "warning: 1 of 3 pieces in all rows (33.3 %) are [UNK] (the first: '\u2603', " in said


def test_text_in_another_encoding_is_answered_with_what_converts_it(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes("a café\n".encode("latin-1"))
    paths = ["--input", str(path), "--output", str(tmp_path / "out.jsonl")]
    assert predict.main(["--model", str(models["tags"]), *paths, *WHERE]) == 0
    said = capsys.readouterr().err
    assert "1 invalid byte left out\n14.3 % of the bytes are not valid UTF-8" in said
    assert f"iconv -f WINDOWS-1252 -t UTF-8 {path} > {path}.utf8.txt (or from" in said


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_has_the_same_bits_in_any_company(
    name: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, where = lines_of(name), ["--device", "cpu", "--precision", "float32"]
    shuffled = lines.copy()
    random.Random(1).shuffle(shuffled)
    task = find_fine_tuned(models[name]).settings.task
    module = task_of(task)
    monkeypatch.setattr(module, "result", lambda r, p, *_: {"id": r.id, "all": bits_of(p)})
    found = [
        sorted(answers(models[name], tmp_path, order, *where, "--batch-tokens", tokens))
        for order in (lines, shuffled)
        for tokens in ("1", "100", "4096")
    ]
    assert all(one == found[0] for one in found[1:])
    alone = answers(models[name], tmp_path, lines[5:6], *where)
    assert alone[0] in found[0]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("name", KINDS)
def test_a_model_without_a_finite_answer_is_one_line(
    name: str,
    wrong: float,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = fine_tuning.answer

    def answer(*given: Any) -> Any:
        found = original(*given)
        array = found[-1] if isinstance(found, tuple) else found
        array[(0,) * array.ndim] = wrong
        return found

    monkeypatch.setattr(fine_tuning, "answer", answer)
    (tmp_path / "in.jsonl").write_text("\n".join(lines_of(name)))
    paths = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert predict.main(["--model", str(models[name]), *paths, *WHERE]) == 2
    said = capsys.readouterr().err
    assert "error: the model computes NaN or infinity" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", SPANS)
def test_files_of_squad_say_what_the_lines_of_json_say(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """Answers lie in their contexts; questions with null odds above the threshold have none."""
    lines = lines_of(name)
    contexts = {one["id"]: one["context"] for one in map(json.loads, lines)}
    found = [json.loads(one) for one in answers(models[name], tmp_path, lines, *WHERE)]
    threshold = sorted(one["null_odds"] for one in found)[20]
    flags = [*WHERE, "--set", f"null_threshold={threshold!r}"]
    objects = [json.loads(one) for one in answers(models[name], tmp_path, lines, *flags)]
    for one in objects:
        is_there = one["null_odds"] <= threshold
        assert one["answer"] == (one["best"][0]["text"] if is_there else "")
        assert one["answer"] == contexts[one["id"]][one["start"] or 0 : one["end"] or 0]
    assert len({one["answer"] for one in objects}) > 2
    for form, key in (("squad", "answer"), ("squad-null-odds", "null_odds")):
        for tokens in ("64", "4096"):
            more = ["--format", form, "--batch-tokens", tokens]
            text = "".join(answers(models[name], tmp_path, lines, *flags, *more))
            pairs = list(json.loads(text).items())
            assert [one for one, _ in pairs] == [one["id"] for one in objects]
            expected: Any = [one[key] for one in objects]
            if key == "null_odds":
                expected = pytest.approx(expected, rel=1e-9)
            assert [value for _, value in pairs] == expected


def test_records_are_answered_in_groups_so_memory_does_not_grow(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group is one batch; no group exceeds 64 batches of tokens."""
    held: list[int] = []
    tokens: list[int] = []
    original = answering.predictions

    def predictions(reader: Any, parameters: Any, data: LabelledData, *others: Any) -> Any:
        held.append(len(data.records))
        tokens.append(sum(row.ids.size for one in data.features for row in one.rows))
        return original(reader, parameters, data, *others)

    monkeypatch.setattr(prediction, "predictions", predictions)
    monkeypatch.setattr(prediction, "LARGEST_GROUP", 4)
    lines = lines_of("tags", 400)
    longest = 50
    assert len(answers(models["tags"], tmp_path, lines, *WHERE, "--batch-tokens", "100")) == 400
    assert sum(held) == 400
    assert 100 <= tokens[0] < 100 + longest
    assert 200 <= tokens[1] < 200 + longest
    assert max(tokens) < 400 + longest
    assert min(tokens[2:-1]) >= 400


def test_records_are_read_only_as_they_are_needed(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read and not yet written is one group at most."""
    open_now = 0
    most = 0
    opened = prediction.open_fine_tuned(
        models["tags"], None, "reference", "float64", [], lambda _: None
    )
    task = opened.reader.task
    original = task.records

    def records(*given: Any) -> Iterator[Any]:
        nonlocal open_now, most
        for record in original(*given):
            open_now += 1
            most = max(most, open_now)
            yield record

    class Written:
        def write(self, lines: bytes) -> None:
            nonlocal open_now
            open_now -= lines.count(b"\n")

    monkeypatch.setattr(task, "records", records)
    monkeypatch.setattr(prediction, "LARGEST_GROUP", 2)
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        stream.write("".join(f"{line}\n" for line in lines_of("tags", 300)))
    with open_source(f"/dev/fd/{read}", "jsonl") as source:
        counted = prediction.predict(opened, source, Written(), "json", 100, StopSignals(), quiet())
    os.close(read)
    assert (counted.records, open_now) == (300, 0)
    assert most < 60  # two batches of 100 tokens hold less


@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "json") for name in KINDS), ("tags", "conll"), ("spans", "squad")],
)
def test_records_are_answered_where_a_pipe_pauses(
    name: str, form: str, models: dict[str, Path]
) -> None:
    """Each record is written when there is an answer to the one before."""
    opened = prediction.open_fine_tuned(
        models[name], None, "reference", "float64", [], lambda _: None
    )
    given, stop = lines_of(name, 4), StopSignals()
    read, write = os.pipe()

    class Written:
        def write(self, text: bytes) -> None:
            assert text.endswith(b"\n")
            if given:
                os.write(write, f"{given.pop(0)}\n".encode())
            else:
                os.dup2(nothing.fileno(), write)  # which ends the pipe

    deadline = threading.Timer(60, setattr, [stop, "requested", signal.SIGTERM])
    deadline.start()
    os.write(write, f"{given.pop(0)}\n".encode())
    with open(os.devnull, "wb") as nothing, open_source(f"/dev/fd/{read}", "jsonl") as source:
        counted = prediction.predict(opened, source, Written(), form, 4096, stop, quiet())
    deadline.cancel()
    for descriptor in (read, write):
        os.close(descriptor)
    assert (counted.records, given) == (4, [])


def test_a_file_appears_only_when_all_is_answered(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*lines_of("tags"), '{"words": 5}']
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines))
    output = tmp_path / "out.jsonl"
    flags = ["--input", str(tmp_path / "in.jsonl"), "--output", str(output), *WHERE]
    for text in (None, "before"):
        if text is not None:
            output.write_text(text)
        assert predict.main(["--model", str(models["tags"]), *flags, "--batch-tokens", "64"]) == 2
        assert "line 41: " in capsys.readouterr().err
        assert (output.read_text() if text else None) == text
        assert output.exists() == (text is not None)
        assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_a_signal_between_batches_ends_without_a_file(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = answering.predictions

    def predictions(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*given)

    monkeypatch.setattr(prediction, "predictions", predictions)
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines_of("tags")))
    paths = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert predict.main(["--model", str(models["tags"]), *paths, *WHERE]) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_reader_that_goes_away_ends_the_command_quietly(
    models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f"{line}\n" for line in lines_of("tags", 800)))
    command = [sys.executable, "-m", "electra_ref.predict", "--model", str(models["tags"]),
               "--input", str(tmp_path / "in.jsonl"), *WHERE, "--batch-tokens", "64"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["id"] == 0
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert "Traceback" not in said
    assert "Error" not in said


def test_nothing_to_read_is_nothing_to_write(models: dict[str, Path], tmp_path: Path) -> None:
    assert answers(models["tags"], tmp_path, [], *WHERE) == []
