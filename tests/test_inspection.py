"""A saved model as a library: the README's example runs, and its gradients are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.model.losses import total_loss
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.inspection import batch_of, loss_and_gradients
from electra_ref.training.saved_model import SavedModel, open_model
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, write_corpus
from tests.tiny_electra import COMPLEX_STEP

ROOT = Path(__file__).resolve().parents[1]
ROWS = [[7, 30, 8, 12, 9, 40, 11], [20, 21, 22], []]

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run where the README has one."""
    folder = tmp_path_factory.mktemp("library")
    corpus = write_corpus(folder / "corpus.txt")
    trainer = begin_small(folder / "runs" / "tiny", corpus)
    with trainer.run:
        trainer.train(StopSignals(), 3)
    return folder


def opened(folder: Path, device: str = "reference", precision: str = "float64") -> SavedModel:
    return open_model(folder / "runs" / "tiny", device, precision)


def test_a_batch_has_special_tokens_and_padding(folder: Path) -> None:
    batch = batch_of(opened(folder), ROWS)
    assert batch.input_ids.tolist() == [
        [2, 7, 30, 8, 12, 9, 40, 11, 3],
        [2, 20, 21, 22, 3, 0, 0, 0, 0],
        [2, 3, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.attention_mask.sum(axis=1).tolist() == [9, 5, 2]
    assert not batch.token_type_ids.any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no row"),
        ([[60]], r"0 to 59, got 60 to 60"),
        ([[-1, 3]], r"0 to 59, got -1 to 3"),
        ([[5] * 19], r"a row has 19 token ids; the model reads 18 at most"),
    ],
)
def test_rows_that_mean_nothing_are_refused(
    rows: list[list[int]], message: str, folder: Path
) -> None:
    with pytest.raises(UserError, match=message):
        batch_of(opened(folder), rows)
    batch_of(opened(folder), [[5] * 18])


def test_gradients_are_those_of_the_loss(folder: Path) -> None:
    """By the complex step along a random direction, at the parameters of the saved model."""
    saved = opened(folder)
    batch = batch_of(saved, ROWS)
    output, gradients = loss_and_gradients(saved, batch, seed=3)
    direction = np.random.default_rng(0).standard_normal(saved.parameters.vector.size)
    moved = saved.parameters.vector + 1j * COMPLEX_STEP * direction
    along = saved._replace(parameters=FlatParameters(saved.parameters.specs, moved))
    loss: Any = total_loss(loss_and_gradients(along, batch, seed=3)[0].terms)
    assert gradients.vector @ direction == pytest.approx(loss.imag / COMPLEX_STEP, rel=1e-12)
    assert float(total_loss(output.terms)) == pytest.approx(loss.real, rel=1e-14)
    assert output.discriminator_logits.shape == (27,)
    other, _ = loss_and_gradients(saved, batch, seed=4)
    assert float(total_loss(other.terms)) != float(total_loss(output.terms))


def test_the_fast_backend_gives_the_same(folder: Path) -> None:
    exact, fast = (opened(folder), opened(folder, "cpu", "float32"))
    outputs = [loss_and_gradients(saved, batch_of(saved, ROWS)) for saved in (exact, fast)]
    (output, gradients), (quick_output, quick_gradients) = outputs
    np.testing.assert_allclose(
        quick_output.discriminator_logits, output.discriminator_logits, rtol=1e-4, atol=1e-5
    )
    norm = np.linalg.norm(gradients.vector)
    assert np.linalg.norm(quick_gradients.vector - gradients.vector) < 1e-4 * norm


def test_the_example_of_the_readme_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ten lines are taken from there, and print what the text says."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    monkeypatch.chdir(folder)
    capsys.readouterr()
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "mlm" in printed
    assert "rtd" in printed
    assert names["gradients"].vector.any()
    assert np.isfinite(names["gradients"].vector).all()
