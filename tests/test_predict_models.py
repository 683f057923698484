"""Prediction with each kind of model: what it can be asked, and what it refuses by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import predict
from electra_ref.backends import OpenedBackend, gpu, open_backend
from electra_ref.batch import Batch
from electra_ref.masking import MaskedBatch
from electra_ref.model.generation import guess_masked
from electra_ref.model.passes import ForwardPass
from electra_ref.training import saved_model
from electra_ref.training.saved_model import open_model
from tests import stand_in_cupy
from tests.predicting import predicted, run_predict, train_small

VARIANTS: dict[str, dict[str, Any]] = {
    "electra-15": {"objective": "electra-15"},
    "mlm": {"objective": "mlm"},
    "replace-mlm": {"objective": "replace-mlm"},
    "all-tokens-mlm": {"objective": "all-tokens-mlm"},
    "gdes": {"sharing": "gdes"},
    "none": {"sharing": "none"},
    "all": {"sharing": "all", "generator_hidden_size": 1, "generator_layers": 1},
    "uniform": {"uniform_generator": "true"},
    "paired": {"discriminator_input": "paired"},
    "reinforce": {"adversarial": "reinforce"},
}
CANNOT = {
    ("mlm", "rtd"): "had objective 'mlm', which trains no discriminator; it can do --task mlm",
    ("replace-mlm", "rtd"): "had objective 'replace-mlm', which trains no discriminator; it can",
    ("uniform", "mlm"): "had uniform_generator, which trains no generator; it can do --task rtd",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train a variant once, where a test asks for it."""
    runs: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in runs:
            settings = VARIANTS.get(name, {})
            folder = tmp_path_factory.mktemp("variant")
            runs[name] = train_small(folder, tokens=name == "ids", **settings)
        return runs[name]

    return train


@pytest.mark.parametrize("task", ["rtd", "mlm"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_does_what_it_was_trained_for(
    name: str, task: str, trained: Callable[[str], Path], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Every other task is refused by name, with the reason and what is possible."""
    model = trained(name)
    capfd.readouterr()
    line = '{"text": "a [MASK] io", "text_pair": "a e io"}'
    path = tmp_path / "a.jsonl"
    if (name, task) in CANNOT:
        path.write_text(line, encoding="utf-8")
        assert run_predict(model, task, "--input", str(path)) == 2
        (error,) = capfd.readouterr().err.splitlines()
        assert f"{model} cannot do --task {task}: its run {CANNOT[name, task]}" in error
        return
    (found,) = predicted(tmp_path, model, task, line, name="a.jsonl")
    if task == "rtd":
        assert len(found["logits"]) == len(found["tokens"])
        assert np.ptp(found["logits"]) > 0
    else:
        assert len(found["masks"][0]["fillings"]) == 5


def test_the_encoder_of_replace_mlm_answers_and_not_its_generator(
    trained: Callable[[str], Path], tmp_path: Path
) -> None:
    model = trained("replace-mlm")
    opened = open_model(model, "reference", "float64")
    assert opened.model.encoder.size != opened.model.generator.size
    (found,) = predicted(tmp_path, model, "mlm", "a [MASK]", "--top-k", "1")
    special = opened.tokenizer.special_tokens
    (a,) = opened.tokenizer.encode("a")
    ids = np.array([[special.cls, a, special.mask, special.sep]], np.int32)
    batch = Batch(ids, np.zeros_like(ids), np.ones(ids.shape, bool))
    one = np.array([[2]], np.int32)
    masked = MaskedBatch(batch, ids, one, one, np.ones((1, 1), bool))
    run = ForwardPass(opened.opened.backend, opened.parameters, None)
    guesses, _ = guess_masked(run, opened.model.encoder, batch, masked)
    logits = guesses.logits[0].copy()
    logits[list(special)] = -np.inf
    assert found["masks"][0]["fillings"][0]["id"] == int(logits.argmax())


def test_a_discriminator_that_compares_needs_pairs(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = trained("paired")
    path = tmp_path / "a.txt"
    path.write_text("a\n", encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path)) == 2
    assert "was trained to compare (discriminator_input = 'paired')" in capfd.readouterr().err
    path = path.rename(tmp_path / "a.jsonl")
    path.write_text('\n{"text": "a"}\n', encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path)) == 2
    assert "a.jsonl, line 2: this discriminator compares" in capfd.readouterr().err
    (found,) = predicted(tmp_path, model, "mlm", "a [MASK]")
    assert len(found["masks"]) == 1, "its generator reads single texts"


def test_a_model_of_token_ids_reads_token_ids(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = trained("ids")
    lines = '{"ids": [3, 0, 39], "id": "x"}\n{"ids": []}\n{"ids": [1], "ids_pair": [2]}'
    first, empty, pair = predicted(tmp_path, model, "rtd", lines, name="a.jsonl")
    assert first["id"] == "x"
    assert first["tokens"] == ["[CLS]", "3", "0", "39", "[SEP]"]
    assert first["ids"] == [2, 8, 5, 44, 3]
    assert first["offsets"] == [None, [0, 1], [1, 2], [2, 3], None]
    assert empty == {"tokens": [], "ids": [], "offsets": [], "logits": []}
    assert pair["texts"] == [None, 0, None, 1, None]
    masked = '{"ids": [3, "[MASK]", 39]}'
    (found,) = predicted(tmp_path, model, "mlm", masked, name="a.jsonl")
    (mask,) = found["masks"]
    assert mask["offset"] == [1, 2]
    assert all(int(filling["token"]) + 5 == filling["id"] for filling in mask["fillings"])
    assert set(found) == {"masks"}
    path = tmp_path / "a.txt"
    path.write_text("1 2 3\n", encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path)) == 2
    assert 'was trained on token ids, not on text: give JSON lines, {"ids"' in (
        capfd.readouterr().err
    )
    path = path.rename(tmp_path / "b.jsonl")
    path.write_text('{"ids": [40]}\n', encoding="utf-8")
    assert run_predict(model, "rtd", "--input", str(path)) == 2
    assert "position 0: the id 40 is not in the vocabulary, which ends at 39" in (
        capfd.readouterr().err
    )


def test_a_model_of_text_does_not_read_ids(
    trained: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"ids": [3]}\n', encoding="utf-8")
    assert run_predict(trained("gdes"), "rtd", "--input", str(path)) == 2
    assert "line 1: the JSON object has no 'text'; its keys are 'ids'" in capfd.readouterr().err


def compare_devices(model: Path, folder: Path) -> None:
    lines = "a [MASK] io\n\n" + "ae [MASK] st " * 8
    for task in ("rtd", "mlm"):
        expected = predicted(folder, model, task, lines)
        found = predicted(folder, model, task, lines, "--device", "gpu")
        for one, other in zip(found, expected, strict=True):
            if task == "rtd":
                assert one["ids"] == other["ids"]
                np.testing.assert_allclose(one["logits"], other["logits"], rtol=1e-9)
            else:
                assert one == other


def test_arrays_keep_to_their_device(
    trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_stand_in(device: str, precision: str) -> OpenedBackend:
        if device == "gpu":
            return OpenedBackend(gpu, "gpu", "float64", "gpu", "device: a stand-in")
        return open_backend(device, precision)

    stand_in_cupy.install(monkeypatch)
    monkeypatch.setattr(saved_model, "open_backend", open_stand_in)
    compare_devices(trained("gdes"), tmp_path)


@pytest.mark.gpu
def test_a_gpu_answers_like_the_processor(trained: Callable[[str], Path], tmp_path: Path) -> None:
    compare_devices(trained("gdes"), tmp_path)


def test_a_model_that_is_missing_is_said_before_a_task_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(["--model", str(tmp_path / "gone"), "--input", "a.txt"]) == 2
    assert f"there is no folder {tmp_path / 'gone'}" in capsys.readouterr().err


def test_a_closed_standard_output_is_one_line(
    trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "a.txt").write_text("a\n")
    model = trained("gdes")
    monkeypatch.setattr(sys, "stdout", None)
    assert run_predict(model, "rtd", "--input", str(tmp_path / "a.txt")) == 2
    assert "standard output is closed; name a file with --output" in capsys.readouterr().err
