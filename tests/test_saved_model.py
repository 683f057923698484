"""A model is opened for reading: its parameters alone, from a run or one of its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import train
from electra_ref.errors import UserError
from electra_ref.model.objectives import electra
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.checkpoint import load_checkpoint
from electra_ref.training.saved_model import open_model
from tests.test_metamorphic import draw_rows
from tests.test_train_command import SETTINGS

RUN = {**SETTINGS, "steps": 4, "checkpoint_every": 2, "seed": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float64 with checkpoints at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("saved")
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 40, (30, 50)))
    settings = [flag for key, value in RUN.items() for flag in ("--set", f"{key}={value}")]
    arguments = ["--tokens", str(folder / "ids.npy"), "--output-dir", str(folder / "run")]
    backend = ["--device", "reference", "--precision", "float64"]
    assert train.main([*arguments, *backend, *settings]) == 0
    return folder / "run"


def saved(run: Path, step: int) -> Any:
    return load_checkpoint(run / "checkpoints" / f"step-{step:08d}").groups["model"]


def test_the_newest_model_of_a_run_and_that_of_a_checkpoint(run: Path) -> None:
    for path, step in ((run, 4), (run / "checkpoints" / "step-00000002", 2)):
        opened = open_model(path, "reference", "float64")
        assert opened.step == step
        assert opened.config.seed == 3
        assert opened.config.vocab_size == len(opened.tokenizer.vocab) == 45
        expected = saved(run, step)
        assert opened.parameters.views.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(opened.parameters[name], tensor)
    name = "generator.head.output.bias"
    assert (saved(run, 2)[name] != saved(run, 4)[name]).any()


def test_the_optimizer_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments are twice the size of the model, and a reader has no use for them."""
    names: list[str] = []
    original = os.open

    def watched(path: Any, *rest: Any, **more: Any) -> int:
        names.append(os.path.basename(path))
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    open_model(run, "reference", "float64")
    assert "model.safetensors" in names
    assert "optimizer.safetensors" not in names


def test_the_model_computes_in_the_precision_that_is_asked_for(run: Path) -> None:
    opened = open_model(run, "reference", "float32")
    assert opened.parameters.vector.dtype == np.float32
    exact = open_model(run, "reference", "float64")
    batch, stream = draw_rows(3, 16, seed=0), RandomStream(0, Purpose.MASK, 0)
    logits = [
        electra.forward(
            ForwardPass(each.opened.backend, each.parameters, None), each.model, batch, stream
        )[0].discriminator_logits
        for each in (opened, exact)
    ]
    assert logits[0].dtype == np.float32
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "/nothing holds no run of electra_ref"),
        ("run/checkpoints/step-00000003", "step-00000003"),
        ("run/checkpoints", "/run/checkpoints holds no run of electra_ref"),
        ("run/vocab.txt", r"/run/vocab\.txt holds no run of electra_ref"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(run: Path, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        open_model(run.parent / path, "reference")
    assert "\n" not in str(refused.value)


def test_a_run_that_was_stopped_before_its_first_step_has_no_model(
    run: Path, tmp_path: Path
) -> None:
    for name in ("config.toml", "environment.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(UserError, match="has saved no model yet"):
        open_model(tmp_path, "reference")
