"""Prediction from the command line: the right answers, in order, for any form of the input."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_ref import predict
from electra_ref.batch import Batch
from electra_ref.model.encoder import encode
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.passes import ForwardPass
from electra_ref.training.prediction import run as prediction
from electra_ref.training.prediction import source as source_module
from electra_ref.training.prediction.table import TASKS, task_of
from electra_ref.training.saved_model import SavedModel, open_model
from tests.file_system_calls import fail_at, watching
from tests.predicting import not_given, predicted, run_predict, train_small

PROGRAM = [sys.executable, "-m", "electra_ref.predict"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ELECTRA that reads rows of 16 tokens."""
    return train_small(tmp_path_factory.mktemp("electra"))


@pytest.fixture(scope="module")
def opened(model: Path) -> SavedModel:
    return open_model(model, "reference", "float64")


def row_of(ids: list[int], segments: list[int] | None = None) -> Batch:
    return Batch(
        np.array([ids], np.int32),
        np.array([segments or [0] * len(ids)], np.int32),
        np.ones((1, len(ids)), bool),
    )


def plain_rtd(opened: SavedModel, ids: list[int], segments: list[int] | None = None) -> Any:
    """The logits of one row that is not padded, by the functions of training."""
    run = ForwardPass(opened.opened.backend, opened.parameters, None)
    network = opened.networks.discriminator
    assert network is not None
    return detection_head(run, network, encode(run, network, row_of(ids, segments))[0])[0]


def plain_mlm(opened: SavedModel, ids: list[int], place: int) -> Any:
    run = ForwardPass(opened.opened.backend, opened.parameters, None)
    network = opened.networks.generator
    assert network is not None
    hidden = encode(run, network, row_of(ids))[0]
    return vocabulary_head(run, network, hidden, np.array([[place]], np.int32))[0][0]


def test_logits_are_those_of_the_discriminator(
    tmp_path: Path, model: Path, opened: SavedModel
) -> None:
    text = "Aest rio, seté"
    encoding = opened.tokenizer.encode_with_offsets(text)
    special = opened.tokenizer.special_tokens
    (found,) = predicted(tmp_path, model, "rtd", text)
    assert found["ids"] == [special.cls, *encoding.ids, special.sep]
    assert found["tokens"] == ["[CLS]", *encoding.tokens, "[SEP]"]
    assert found["offsets"] == [None, *map(list, encoding.offsets), None]
    assert list(found) == ["tokens", "ids", "offsets", "logits"]
    np.testing.assert_allclose(found["logits"], plain_rtd(opened, found["ids"]), rtol=1e-12)


def test_a_pair_has_two_segments(tmp_path: Path, model: Path, opened: SavedModel) -> None:
    line = '{"text": "ae io", "text_pair": "st", "id": "x1", "label": 3}'
    (found,) = predicted(tmp_path, model, "rtd", line, name="pairs.jsonl")
    assert found["id"] == "x1"
    assert set(found) == {"id", "tokens", "ids", "offsets", "texts", "logits"}
    end = found["tokens"].index("[SEP]")
    segments = [0] * (end + 1) + [1] * (len(found["ids"]) - end - 1)
    assert found["texts"] == [
        None if token in ("[CLS]", "[SEP]") else segment
        for token, segment in zip(found["tokens"], segments, strict=True)
    ]
    expected = plain_rtd(opened, found["ids"], segments)
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-12)


def test_fillings_are_the_best_of_the_softmax(
    tmp_path: Path, model: Path, opened: SavedModel
) -> None:
    special, vocabulary = opened.tokenizer.special_tokens, opened.tokenizer.vocab
    text = "ae [MASK] st"
    (found,) = predicted(tmp_path, model, "mlm", text, "--top-k", "3")
    before, after = opened.tokenizer.encode("ae"), opened.tokenizer.encode("st")
    ids = [special.cls, *before, special.mask, *after, special.sep]
    logits = plain_mlm(opened, ids, 1 + len(before))
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    ordinary = [i for i in range(len(vocabulary)) if i not in special]
    best = sorted(ordinary, key=lambda i: -probabilities[i])[:3]
    (mask,) = found["masks"]
    assert mask["offset"] == [3, 9]
    assert [filling["id"] for filling in mask["fillings"]] == best
    assert [filling["token"] for filling in mask["fillings"]] == [vocabulary[i] for i in best]
    np.testing.assert_allclose(
        [filling["probability"] for filling in mask["fillings"]], probabilities[best], rtol=1e-5
    )
    word = vocabulary[best[0]]
    expected = f"ae{word[2:]} st" if word.startswith("##") else f"ae {word} st"
    assert found["filled"] == expected


def test_all_words_but_the_special_ones_can_be_asked_for(
    tmp_path: Path, model: Path, opened: SavedModel
) -> None:
    (found,) = predicted(tmp_path, model, "mlm", "[MASK]", "--top-k", "100000")
    fillings = found["masks"][0]["fillings"]
    assert len(fillings) == len(opened.tokenizer.vocab) - 5
    assert not {filling["id"] for filling in fillings} & set(opened.tokenizer.special_tokens)
    assert sum(filling["probability"] for filling in fillings) < 1.0


def test_masks_of_a_pair_and_lines_without_masks(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"text": "a [MASK] [MASK]", "text_pair": "[MASK] e"},
        {"text": "a", "id": 7},
        {"text": ""},
    ]
    text = "\n".join(map(json.dumps, lines))
    pair, none, empty = predicted(tmp_path, model, "mlm", text, name="a.jsonl")
    assert [mask["text"] for mask in pair["masks"]] == [0, 0, 1]
    assert [mask["offset"] for mask in pair["masks"]] == [[2, 8], [9, 15], [0, 6]]
    assert "[MASK]" not in pair["filled"] + pair["filled_pair"]
    assert none == {"id": 7, "masks": [], "filled": "a"}
    assert empty == {"masks": [], "filled": ""}
    assert "3 lines, 1 empty, 1 without [MASK], 3 masks, " in capfd.readouterr().err


def test_a_mask_is_ordinary_text_for_rtd(tmp_path: Path, model: Path, opened: SavedModel) -> None:
    (found,) = predicted(tmp_path, model, "rtd", "a [MASK]")
    assert found["ids"][1:-1] == opened.tokenizer.encode("a [MASK]")


def test_every_line_has_an_answer(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = predicted(tmp_path, model, "rtd", b"a\n\n \n\xff\na\xff e\n")
    empty: dict[str, Any] = {"tokens": [], "ids": [], "offsets": [], "logits": []}
    assert found[1:4] == [empty] * 3
    assert found[4]["offsets"][1:-1] == [[0, 1], [3, 4]], "an invalid byte is one character"
    said = capfd.readouterr().err
    assert "5 lines, 3 empty, 2 invalid bytes left out, 7 tokens in" in said
    assert "note: 16.7 % of the bytes are not valid UTF-8" in said
    assert (
        f"iconv -f WINDOWS-1252 -t UTF-8 {tmp_path}/lines.txt > {tmp_path}/lines.txt.utf8.txt "
        in said
    )
    assert predicted(tmp_path, model, "rtd", b"") == []
    predicted(tmp_path, model, "rtd", "a \u2603 \u2603")
    assert "1 line, 5 tokens (2 [UNK]) in" in capfd.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_no_token_of_a_long_text_is_lost(
    task: str, tmp_path: Path, model: Path, opened: SavedModel, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model reads 16 tokens; each answer is that of its window."""
    words = " ".join("a [MASK] e" if task == "mlm" else "a e i" for _ in range(20))
    (found,) = predicted(tmp_path, model, task, words, "--stride", "5")
    assert "1 longer than the model reads, cut into" in capfd.readouterr().err
    if task == "mlm":
        assert len(found["masks"]) == 20
        assert "[MASK]" not in found["filled"]
        return
    assert found["ids"][1:-1] == opened.tokenizer.encode(words)
    first = plain_rtd(opened, [*found["ids"][:15], found["ids"][-1]])
    np.testing.assert_allclose(found["logits"][:8], first[:8], rtol=1e-12)
    last = plain_rtd(opened, [found["ids"][0], *found["ids"][-15:]])
    np.testing.assert_allclose(found["logits"][-8:], last[-8:], rtol=1e-12)


def test_a_longer_window_can_be_asked_for(tmp_path: Path, model: Path, opened: SavedModel) -> None:
    """As long as there are positions: 20, which is no multiple of 8."""
    words = " ".join("aei"[i % 3] for i in range(18))
    (found,) = predicted(tmp_path, model, "rtd", words, "--max-length", "20")
    np.testing.assert_allclose(found["logits"], plain_rtd(opened, found["ids"]), rtol=1e-12)


def test_a_line_of_a_megabyte_is_answered(tmp_path: Path, model: Path) -> None:
    (found,) = predicted(tmp_path, model, "rtd", "aeio " * 8_000 + "a" * 960_000 + " e")
    assert found["offsets"][-2] == [1_000_001, 1_000_002]
    assert len(found["logits"]) == len(found["ids"]) == len(found["tokens"])
    assert all(isinstance(logit, float) for logit in found["logits"])


LINES = st.lists(st.text("aeio st.é", max_size=40), max_size=12)


@given(lines=LINES, order=st.randoms(), batch=st.sampled_from([1, 16, 40, 4096]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_in_order_and_depend_on_their_line_alone(
    lines: list[str], order: Any, batch: int, tmp_path: Path, model: Path
) -> None:
    text = "".join(line + "\n" for line in lines)
    found = predicted(tmp_path, model, "rtd", text, "--batch-tokens", str(batch))
    assert len(found) == len(lines)
    mixed = list(range(len(lines)))
    order.shuffle(mixed)
    text = "".join(lines[i] + "\n" for i in mixed)
    again = predicted(tmp_path, model, "rtd", text)
    for i, other in zip(mixed, again, strict=True):
        assert found[i]["ids"] == other["ids"]
        # the matrix product of a library may sum in another order beside other rows
        np.testing.assert_allclose(found[i]["logits"], other["logits"], rtol=1e-9)


def test_on_a_cpu_the_bits_do_not_depend_on_the_batch(tmp_path: Path, model: Path) -> None:
    words = ["a", "ae io", "st " * 9, "e" * 30, "", "ae st io " * 10]
    lines = [words[i * 5 % 6] + " i" * (i % 4) for i in range(40)]
    on_cpu = ["--device", "cpu", "--precision", "float32"]
    arguments = [*on_cpu, "--batch-tokens"]
    text = "\n".join(lines)
    found = predicted(tmp_path, model, "rtd", text, *arguments, "4096")
    small = predicted(tmp_path, model, "rtd", text, *arguments, "8")
    assert small == found
    turned = predicted(tmp_path, model, "rtd", "\n".join(reversed(lines)), *arguments, "100")
    assert turned[::-1] == found
    exact = predicted(tmp_path, model, "rtd", text)
    for one, other in zip(found, exact, strict=True):
        np.testing.assert_allclose(one["logits"], other["logits"], rtol=0, atol=1e-4)
        rounded = np.array(one["logits"], np.float32)
        assert [float(str(logit)) for logit in rounded] == one["logits"], "9 digits, no more"


def test_groups_are_bounded_and_grow(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held of the input at any time does not depend on how much there is."""
    sizes: list[tuple[int, int]] = []
    original = prediction._Group._computed

    def watched(group: Any) -> Any:
        sizes.append((len(group.examples), group.size))
        return original(group)

    monkeypatch.setattr(prediction._Group, "_computed", watched)
    monkeypatch.setattr(prediction, "LARGEST_GROUP", 4)
    predicted(tmp_path, model, "rtd", "a e i\n" * 400, "--batch-tokens", "50")
    assert [tokens for _, tokens in sizes] == [50, 100, 200, *[200] * 8, 50][: len(sizes)]
    assert sum(count for count, _ in sizes) == 400
    sizes.clear()
    monkeypatch.setattr(prediction, "MOST_LINES", 30)
    predicted(tmp_path, model, "rtd", "\n" * 100)
    assert [count for count, _ in sizes] == [30, 30, 30, 10]
    sizes.clear()
    monkeypatch.setattr(prediction, "LONGEST_GROUP_SECONDS", 0.0)
    predicted(tmp_path, model, "rtd", "a e i\n" * 40, "--batch-tokens", "50")
    assert [tokens for _, tokens in sizes] == [50] * 4


def test_a_group_is_bounded_by_its_answers_too(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mask has --top-k words, which are kept until the group is written."""
    counts: list[int] = []
    original = prediction._Group._computed

    def watched(group: Any) -> Any:
        counts.append(len(group.examples))
        return original(group)

    monkeypatch.setattr(prediction._Group, "_computed", watched)
    monkeypatch.setattr(prediction, "LARGEST_GROUP", 1)
    lines = "[MASK] [MASK]\n" * 12
    predicted(tmp_path, model, "mlm", lines, "--batch-tokens", "40", "--top-k", "5")
    assert counts == [4, 4, 4]
    counts.clear()
    predicted(tmp_path, model, "mlm", lines, "--batch-tokens", "40", "--top-k", "1")
    assert counts == [10, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-length", "4"], "--max-length 4: the model reads 5 to 20 tokens"),
        (["--max-length", "21"], "--max-length 21: the model reads 5 to 20 tokens"),
        (["--stride", "0"], "--stride 0: a window shows 14 tokens"),
        (["--stride", "15"], "--stride 15: a window shows 14 tokens"),
        (["--task", "mlm", "--top-k", "0"], "--top-k 0: at least 1"),
        (["--batch-tokens", "0"], "--batch-tokens 0: at least 1"),
        (["--learning-rate", "1"], "unknown argument --learning-rate; --help"),
        (["--inputs", "1"], "unknown argument --inputs; the nearest one is --input"),
        (["--input", "missing"], "cannot read missing: No such file"),
        (["--input", "."], "cannot read .: Is a directory"),
        (["--output", "."], "--output . is a folder"),
        (["--output", "missing/a"], "cannot write missing/a: No such file"),
        (["--output", ""], "--output '' names no file"),
        (["--output", "a.txt"], "--output a.txt is the input itself"),
        (["--output", "link"], "--output link is the input itself"),
        (["--input", "a.jsonl"], "a.jsonl, line 1: expected a JSON object with 'text'"),
        (["--input", "b.txt"], "b.txt begins with a JSON object: choose --input-format"),
        (["--task", "qa"], "argument --task: invalid choice: 'qa'"),
        (["--model", "nothing"], "there is no folder"),
        (["--model", ""], "an empty name stands for no folder"),
        (["--top-k", "3"], "--top-k counts the fillings"),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, model: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a\n", encoding="utf-8")
    Path("a.jsonl").write_text("a\n", encoding="utf-8")
    Path("b.txt").write_text('{"text": "a"}\n', encoding="utf-8")
    Path("link").symlink_to("a.txt")
    before = sorted(os.listdir())
    usual = not_given({"--input": "a.txt"}, arguments)
    assert run_predict(model, "rtd", *usual, *arguments) == 2
    captured = capfd.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error:" in line]
    assert f"predict: error: {message}" in line
    assert captured.out == ""
    assert sorted(os.listdir()) == before
    assert Path("a.txt").read_text(encoding="utf-8") == "a\n"


def test_a_bad_line_comes_after_the_answers_before_it(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "a.jsonl", tmp_path / "out"
    path.write_text('{"text": "a"}\n\nb\n{"text": "c"}\n', encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path)) == 2
    captured = capfd.readouterr()
    assert [json.loads(line)["tokens"][1:2] for line in captured.out.splitlines()] == [["a"], []]
    assert "a.jsonl, line 3: expected a JSON object" in captured.err
    assert run_predict(model, "rtd", "--input", str(path), "--output", str(output)) == 2
    assert os.listdir(tmp_path) == ["a.jsonl"], "a file appears complete or not at all"


def test_a_file_is_replaced_only_by_a_complete_one(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, output, link = tmp_path / "a.txt", tmp_path / "out", tmp_path / "link"
    path.write_text("a\n" * 3, encoding="utf-8")
    output.write_text("old", encoding="utf-8")
    link.symlink_to(output)
    arguments = ["--input", str(path), "--output", str(link)]
    for kind, error in (("write", errno.ENOSPC), ("fsync", errno.EIO), ("rename", errno.EACCES)):
        with watching(fail_at(0, error, kinds=(kind,))):
            assert run_predict(model, "rtd", *arguments) == 2
        assert output.read_text(encoding="utf-8") == "old"
        assert f"cannot write {link}: {os.strerror(error)}; " in capfd.readouterr().err
    assert run_predict(model, "rtd", *arguments) == 0
    assert output.read_text(encoding="utf-8").count("\n") == 3
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "link", "out"]


def test_devices_are_written_as_they_are(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n", encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path), "--output", "/dev/null") == 0
    assert not Path("/dev/null").is_file()
    if os.path.exists("/dev/full"):
        assert run_predict(model, "rtd", "--input", str(path), "--output", "/dev/full") == 2
        assert "cannot write /dev/full: No space left on device; free" in capfd.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(model: Path) -> None:
    command = [*PROGRAM, "--model", str(model), "--task", "rtd", "--device", "reference"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, input=b"a\n", stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.returncode == 2
    *_, line = done.stderr.decode().splitlines()
    assert "error: cannot write standard output: No space left on device; free some" in line


def started(model: Path, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    where = ["--device", "reference", "--precision", "float64"]
    return subprocess.Popen(
        [*PROGRAM, "--model", str(model), "--task", "rtd", *where, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **streams,
    )  # fmt: skip


def test_a_pipe_is_answered_when_it_pauses(model: Path) -> None:
    with started(model) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in ("a e", "i"):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            found = json.loads(process.stdout.readline())
            assert found["tokens"][1:-1] == text.split()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        output, errors = process.communicate(timeout=60)
    assert output == b""
    assert b"SIGINT: stopping after this batch" in errors
    assert b"Traceback" not in errors


def test_a_reader_that_goes_away_ends_it_quietly(model: Path) -> None:
    with started(model) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"a\n")
        process.stdin.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(60) == 141
    assert errors.count(b"\n") == 1, errors  # what the model is


def test_a_closed_standard_input_is_one_line(model: Path) -> None:
    closed = [*PROGRAM, "--model", str(model), "--task", "rtd"]
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *closed]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.endswith("error: standard input is closed; name a file with --input\n")


def test_bytes_that_are_piped_are_converted_in_the_pipe(model: Path) -> None:
    """Standard input has no name to convert it by."""
    command = [*PROGRAM, "--model", str(model), "--task", "rtd"]
    done = subprocess.run(command, input=b"a\n\xff\n", capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert b"... | iconv -f WINDOWS-1252 -t UTF-8 | ... (or from" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_lines_and_no_file(
    number: signal.Signals, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, output = tmp_path / "a.txt", tmp_path / "out"
    path.write_text("a e i\n" * 100, encoding="utf-8")
    task = task_of("rtd")
    original = task.answers
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(task, "answers", interrupted)
    arguments = ["--input", str(path), "--batch-tokens", "50"]
    assert run_predict(model, "rtd", *arguments) == 128 + number
    out = capfd.readouterr().out
    assert out.endswith("\n")
    assert len([json.loads(line) for line in out.splitlines()]) == 10
    calls.clear()
    assert run_predict(model, "rtd", *arguments, "--output", str(output)) == 128 + number
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_is_no_number_is_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a [MASK]\n", encoding="utf-8")
    for task, name in (("rtd", "detection_logits"), ("mlm", "word_logits")):
        module = task_of(task)
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original: f(*a) * np.nan)
        assert run_predict(model, task, "--input", str(path)) == 2
        assert "error: the model computes NaN or infinity: " in capfd.readouterr().err


def test_running_out_of_memory_names_the_batch(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(prediction, "pad", fail)
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(tmp_path / "a.txt")) == 2
    assert "9 TiB): choose a smaller --batch-tokens" in capfd.readouterr().err


def test_progress_counts_bytes_of_the_file(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("electra_ref.training.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(source_module, "_BLOCK_BYTES", 50)
    predicted(tmp_path, model, "rtd", "a\n" * 50)
    assert "bytes read: 50/100 (50 %)" in capfd.readouterr().err


def test_the_model_and_its_device_are_named_first(
    tmp_path: Path, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    predicted(tmp_path, model / "checkpoints" / "step-00000003", "mlm", "a [MASK]")
    first = capfd.readouterr().err.splitlines()[0]
    assert first.startswith(f"generator of {model}/checkpoints/step-00000003, step 3; device: cpu")
    assert first.endswith("; reads 16 tokens at a time")


def test_the_command_is_the_module(model: Path) -> None:
    assert predict.PROGRAM.split()[-1] == PROGRAM[-1]
    with started(model, "--format", "view") as process:
        output, errors = process.communicate(b"a\n", timeout=60)
    assert (process.returncode, output.splitlines()[0]) == (0, b"a"), errors
