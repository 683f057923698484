"""A model is opened for reading: its parameters alone, from a run or one of its checkpoints."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import train
from electra_ref.arrays import Array
from electra_ref.errors import UserError
from electra_ref.model.encoder import encode
from electra_ref.model.heads.detection import detection_head
from electra_ref.model.heads.vocabulary import vocabulary_head
from electra_ref.model.objectives import electra
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import Purpose, RandomStream
from electra_ref.training.checkpoint import load_checkpoint, save_checkpoint
from electra_ref.training.saved_model import Part, SavedModel, open_model
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, write_corpus
from tests.test_metamorphic import draw_rows
from tests.test_train_command import SETTINGS
from tests.variants import VARIANTS

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


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("electra", ("discriminator", "generator")),
        ("sharing-none", ("discriminator", "generator")),
        ("sharing-all", ("discriminator", "generator")),
        ("sharing-gdes", ("discriminator", "generator")),
        ("reinforce", ("discriminator", "generator")),
        ("a table of its own to guess by", ("discriminator", "generator")),
        ("all-tokens-mlm", ("discriminator", "generator")),
        ("mlm", ("generator",)),
        ("replace-mlm", ("generator",)),
        ("uniform generator", ("discriminator",)),
    ],
)
def test_one_network_is_read_alone_and_answers_as_in_the_whole(
    variant: str, parts: tuple[Part, ...], tmp_path: Path
) -> None:
    sizes = {"max_length": 16, "max_position_embeddings": 20, **VARIANTS[variant]}
    trainer = begin_small(tmp_path / "run", write_corpus(tmp_path / "corpus.txt"), **sizes)
    with trainer.run:
        trainer.train(StopSignals(), 2)
    whole = open_model(tmp_path / "run", "reference", "float64")
    assert whole.step == 2
    for part in ("discriminator", "generator"):
        if part not in parts:
            with pytest.raises(UserError, match=rf"has no {part}: its run had"):
                open_model(tmp_path / "run", "reference", "float64", part=part)
            continue
        alone = open_model(tmp_path / "run", "reference", "float64", part=part)
        assert [network is not None for network in alone.networks] == [
            part == "discriminator", part == "generator"
        ]  # fmt: skip
        if len(parts) == 2 and whole.config.sharing != "all":
            assert alone.parameters.vector.size < whole.parameters.vector.size
        assert answers(alone, part).tobytes() == answers(whole, part).tobytes()


def answers(saved: SavedModel, part: Part) -> Array:
    """Return the logits of one network for some rows."""
    run = ForwardPass(saved.opened.backend, saved.parameters, None)
    batch = draw_rows(3, 16, seed=0)
    network = getattr(saved.networks, part)
    hidden, _ = encode(run, network, batch)
    if part == "discriminator":
        return detection_head(run, network, hidden)[0]
    return vocabulary_head(run, network, hidden, np.array([[1, 5]] * 3, np.int32))[0]


def test_a_model_takes_the_memory_of_its_parameters(run: Path, tmp_path: Path) -> None:
    """Python's and NumPy's memory while a model with larger tensors is opened."""
    sizes = {"embedding_size": 128, "hidden_size": 128, "intermediate_size": 512,
             "num_hidden_layers": 8, "precision": "float32"}  # fmt: skip
    trainer = begin_small(tmp_path / "run", write_corpus(tmp_path / "corpus.txt"), **sizes)
    with trainer.run:
        trainer.train(StopSignals(), 1)
    open_model(run, "reference")  # imports and tables of Unicode take memory once
    tracemalloc.start()
    opened = open_model(tmp_path / "run", "reference", "float32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert opened.parameters.vector.nbytes > 4_000_000
    assert peak < 1.2 * opened.parameters.vector.nbytes


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_opened(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000004"
    with open(newest / "model.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    assert open_model(tmp_path / "run", "reference").step == 2
    assert "trying the one before it" in capsys.readouterr().err
    with pytest.raises(UserError, match="SHA-256"):
        open_model(newest, "reference")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"w": np.zeros(2)}, r"it lacks .* and \d+ more; it has the unknown w"),
        ({"nan": np.nan}, "NaN or infinity"),
    ],
)
def test_other_tensors_are_refused_by_name(
    tensors: dict[str, Any], reason: str, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    groups = {"model": dict(saved(run, 4)), "optimizer": {}}
    if "nan" in tensors:
        name = next(iter(groups["model"]))
        groups["model"][name] = np.where(np.arange(groups["model"][name].size) == 1, 1e300, 0.0)
        groups["model"][name] = groups["model"][name].reshape(saved(run, 4)[name].shape)
    else:
        groups["model"] = tensors
    path = save_checkpoint(tmp_path / "run" / "checkpoints", 5, groups, {})
    with pytest.raises(UserError, match=reason):
        open_model(path, "reference", "float32")


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
        ("nothing", "there is no folder .*/nothing"),
        ("run/checkpoints/step-00000003", "step-00000003"),
        ("run/checkpoints", "/run/checkpoints holds no model"),
        ("run/vocab.txt", r"/run/vocab\.txt is a file"),
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
