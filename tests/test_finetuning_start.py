"""What a run of fine-tuning begins with: rates by depth, the encoder's parameters, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.config.finetuning import FinetuningConfig, head_for_rows, rates_of
from electra_ref.config.pretraining import resolve_config
from electra_ref.errors import UserError
from electra_ref.model.encoder import hidden_states
from electra_ref.model.labelled import FineTuned, Head
from electra_ref.model.networks import Network, full_size_encoder
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters, Gradients, ParameterSpec
from electra_ref.model.passes import ForwardPass
from electra_ref.text.token_ids import id_vocabulary
from electra_ref.training.finetuning.configuring import new_settings, with_steps
from electra_ref.training.finetuning.encoder_source import copy_model, find_encoder
from electra_ref.training.finetuning.layerwise import with_rates
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.optimizer import TrainingState, optimizer_step
from electra_ref.training.saved_model import find_model, read_parameters
from tests import huggingface_folders, huggingface_tasks
from tests.huggingface_folders import STEP, draw_batch, small_run
from tests.huggingface_tasks import draw_stored
from tests.huggingface_tasks import export as export_task
from tests.huggingface_tasks import write_run as write_task
from tests.small_finetuning import tensors_of, write_encoder
from tests.tiny_electra import tiny_config

DECAY = 0.5


def model_with(**changes: Any) -> FineTuned:
    """Return a tagger on a small encoder of two layers."""
    sizes = {"vocab_size": 13, "embedding_size": 5, "hidden_size": 8, "num_hidden_layers": 2,
             "num_attention_heads": 2, "intermediate_size": 11, "max_position_embeddings": 10,
             "max_length": 9, **changes}  # fmt: skip
    settings = FinetuningConfig(**sizes)
    return FineTuned(full_size_encoder(settings), Head("tagging", "original", 3, 0.1))


def rated(model: FineTuned, decay: float, *, gap: bool) -> list[ParameterSpec]:
    return with_rates(fine_tuning.parameter_specs(model), model.encoder, decay, gap=gap)


@pytest.mark.parametrize(("gap", "rates"), [(True, (1 / 16, 1 / 8, 1 / 4)),
                                            (False, (1 / 8, 1 / 4, 1 / 2))])  # fmt: skip
def test_a_layer_moves_by_half_of_the_one_above_it(gap: bool, rates: tuple[float, ...]) -> None:
    specs = rated(model_with(), DECAY, gap=gap)
    found: dict[str, set[float]] = {}
    for spec in specs:
        place = next((p for p in ("layer.0.", "layer.1.", "task.") if p in spec.name), "input")
        found.setdefault(place, set()).add(spec.rate_scale)
    assert found == {"input": {rates[0]}, "layer.0.": {rates[1]}, "layer.1.": {rates[2]},
                     "task.": {1.0}}  # fmt: skip
    names = {spec.name for spec in specs if spec.rate_scale == rates[0]}
    assert {"embeddings.word_embeddings.weight", "encoder.embeddings_project.bias"} < names
    assert {s.name for s in specs} == {s.name for s in fine_tuning.parameter_specs(model_with())}


def test_a_tenth_layer_is_not_the_first() -> None:
    scales = {
        s.name: s.rate_scale for s in rated(model_with(num_hidden_layers=12), DECAY, gap=True)
    }
    for layer in range(12):
        own = {scale for name, scale in scales.items() if f".layer.{layer}." in name}
        assert own == {DECAY ** (13 - layer)}


@pytest.mark.parametrize("gap", [True, False])
def test_the_first_update_moves_each_parameter_by_its_rate(gap: bool) -> None:
    """Adam's first update is the rate times the sign of the gradient, if it forgets at once."""
    specs = rated(model_with(), DECAY, gap=gap)
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    state = TrainingState(reference, specs, np.zeros(size))
    gradients = Gradients(specs, np.random.default_rng(0).normal(0.0, 1.0, size))
    for spec in specs:
        gradients.sum_of(spec.name)  # it is there
    adam: dict[str, Any] = {"adam_beta1": 0.0, "adam_beta2": 0.0, "adam_epsilon": 1e-30}
    config = FinetuningConfig(
        steps=10, learning_rate=0.01, weight_decay=0.0, gradient_clip=1e9, **adam
    )
    optimizer_step(config, reference, state, gradients)
    for spec in specs:
        moved = np.abs(state.parameters[spec.name])
        np.testing.assert_allclose(moved, 0.01 * spec.rate_scale, rtol=1e-9)
    assert len({spec.rate_scale for spec in specs}) == 4


CASES: dict[str, dict[str, Any]] = {
    "embeddings": {},
    "none": {"sharing": "none"},
    "all": {"sharing": "all", "generator_hidden_size": 1.0, "generator_layers": 1.0},
    "gdes": {"sharing": "gdes"},
    "mlm": {"objective": "mlm"},
    "all-tokens-mlm": {"objective": "all-tokens-mlm"},
    "no projection": {"embedding_size": 8},
}


def copied(path: Path, labels: Sequence[str] = "ABC") -> tuple[FlatParameters, Network, str]:
    """Return parameters on which those of the model at ``path`` were put, and what is said."""
    source = find_encoder(path)
    settings = FinetuningConfig(**source.settings(), max_length=9)  # type: ignore[arg-type]
    encoder = full_size_encoder(settings)
    model = FineTuned(encoder, Head("tagging", "huggingface", len(labels), 0.1))
    specs = rated(model, DECAY, gap=True)
    size = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, np.full(size, 99.0, "float32"))
    return parameters, encoder, copy_model(source, parameters, model, tuple(labels), reference).what


def hidden_of(parameters: FlatParameters, encoder: Network) -> Array:
    batch = draw_batch(tiny_config(), 0)
    return hidden_states(ForwardPass(reference, parameters, None), encoder, batch)


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_reads_as_the_one_it_is_a_copy_of(name: str, tmp_path: Path) -> None:
    path = small_run(tmp_path / "run", **CASES[name])
    parameters, encoder, said = copied(path)
    assert said == f"the encoder of {path}, step {STEP}"
    stored = find_model(path)
    theirs = stored.networks.discriminator or stored.networks.generator
    assert theirs is not None
    specs = stored.objective.parameter_specs(stored.model)
    values, _ = read_parameters(stored, specs, "float32", path)
    for spec in parameters.specs:
        is_left = bool((parameters[spec.name] == 99.0).all())
        assert is_left == spec.name.startswith("task."), spec.name
    same = hidden_of(parameters, encoder).tobytes() == hidden_of(values, theirs).tobytes()
    if name == "gdes":
        for table in ("word", "position", "token_type"):
            tensor = f"embeddings.{table}_embeddings.weight"
            both = values[tensor] + values[f"discriminator.{tensor}"]
            assert parameters[tensor].tobytes() == both.tobytes()
        np.testing.assert_allclose(
            hidden_of(parameters, encoder), hidden_of(values, theirs), rtol=1e-4, atol=1e-5
        )
    else:
        assert same
    layers = [spec.name for spec in parameters.specs if spec.name.startswith("encoder.layer.")]
    assert len(layers) > 10
    for name_of_ours in layers:
        source = name_of_ours.replace("encoder", theirs.layers, 1)
        assert parameters[name_of_ours].tobytes() == values[source].tobytes()


def test_the_encoder_of_a_directory_is_that_of_the_run_it_comes_from(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run")
    exported = tmp_path / "exported"
    export_model(path, exported, "discriminator")
    assert copied(exported)[0].vector.tobytes() == copied(path)[0].vector.tobytes()


@pytest.mark.parametrize("labels", ["same", "other", "fewer"])
def test_the_head_of_a_fine_tuned_model_is_taken_if_its_labels_are_the_same(
    labels: str, tmp_path: Path
) -> None:
    stored = draw_stored("tags")
    names = {"same": stored.labels, "other": stored.labels[::-1], "fewer": stored.labels[1:]}
    path = write_task(tmp_path / "run", stored)
    parameters, _, said = copied(path, names[labels])
    checkpoint = tensors_of(path / "checkpoints")
    for spec in parameters.specs:
        ours = parameters[spec.name]
        if spec.name.startswith("task.") and labels != "same":
            assert (ours == 99.0).all()
        else:
            assert ours.tobytes() == checkpoint[f"model/{spec.name}"]
    assert said.startswith("the encoder and " + ("the head" if labels == "same" else "not the"))
    there = export_task(stored, tmp_path / "there")
    assert copied(there, names[labels])[0].vector.tobytes() == parameters.vector.tobytes()


def test_a_model_without_an_encoder_is_refused(tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match=r"there is no folder|holds no model"):
            find_encoder(wrong)


@pytest.mark.parametrize("kind", ["encoder", "task"])
def test_a_model_of_token_ids_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all pieces of a text would be [UNK], also for a model that was fine-tuned so."""

    def written(name: str) -> Path:
        if kind == "task":
            return write_task(tmp_path / name, draw_stored("tags"))
        return write_encoder(tmp_path / name)

    find_encoder(written("text"))
    for module in (huggingface_folders, huggingface_tasks):
        monkeypatch.setattr(module, "vocabulary_of", lambda size: id_vocabulary(size - 6))
    path = written("ids")
    with pytest.raises(UserError) as error:
        find_encoder(path)
    assert str(error.value) == (
        f"the model in {path} was trained on token ids, so its vocabulary names no pieces of text; "
        "choose a model that was trained on text: --model"
    )


SIZES = {
    "small": (12, 256, 3e-4, 0.8),
    "base": (12, 768, 1e-4, 0.8),
    "large": (24, 1024, 5e-5, 0.9),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_recipe_is_the_published_one_of_the_size(name: str) -> None:
    model = resolve_config(preset=name)
    layers, width, rate, decay = SIZES[name]
    assert (model.num_hidden_layers, model.hidden_size) == (layers, width)
    assert rates_of(model) == {"learning_rate": rate, "layerwise_decay": decay}
    assert head_for_rows(model) == {}


@pytest.mark.parametrize("kind", ["classification", "regression", "multiple-choice", "tagging"])
def test_narrow_models_have_a_recipe_of_their_own(kind: str, tmp_path: Path) -> None:
    """They move faster, and the [CLS] of their last layer says little."""
    encoder = find_encoder(write_encoder(tmp_path / "run"))
    settings = new_settings(kind, encoder, None, [])
    assert (settings.learning_rate, settings.layerwise_decay) == (1e-3, 1.0)
    assert settings.head == ("original" if kind == "tagging" else "layers")
    assert settings.epochs == (10.0 if kind == "tagging" else 3.0)
    given = ["head=huggingface", "learning_rate=3e-4", "layerwise_decay=0.8"]
    settings = new_settings(kind, encoder, None, given)
    assert (settings.learning_rate, settings.layerwise_decay) == (3e-4, 0.8)
    assert settings.head == "huggingface"


def test_settings_come_from_recipe_model_file_and_arguments(tmp_path: Path) -> None:
    encoder = find_encoder(write_encoder(tmp_path / "run", lowercase=False, hidden_dropout=0.3))
    settings = new_settings("tagging", encoder, None, [])
    assert (settings.learning_rate, settings.layerwise_decay, settings.epochs) == (1e-3, 1.0, 10.0)
    assert (settings.hidden_size, settings.lowercase, settings.task) == (32, False, "tagging")
    assert settings.hidden_dropout == FinetuningConfig.hidden_dropout != 0.3
    assert settings.max_length == 40  # the recipe's 128 do not fit
    path = tmp_path / "settings.toml"
    path.write_text("epochs = 5.0\nlearning_rate = 2e-3\nhidden_size = 32\n")
    settings = new_settings("tagging", encoder, path, ["epochs=6", "hidden_dropout=0.2"])
    assert (settings.learning_rate, settings.epochs, settings.hidden_dropout) == (2e-3, 6.0, 0.2)


def test_a_run_from_scratch_begins_as_the_model_did(tmp_path: Path) -> None:
    """Otherwise the numbers that pre-training begins with would count as what it taught."""
    own: dict[str, Any] = {"initializer_range": 0.08, "initial_attention": "neighbours"}
    encoder = find_encoder(write_encoder(tmp_path / "run", **own))
    usual = {key: getattr(FinetuningConfig, key) for key in own}

    def begins(*given: str) -> dict[str, Any]:
        settings = new_settings("tagging", encoder, None, given)
        return {key: getattr(settings, key) for key in own}

    settings = new_settings("span-extraction", encoder, None, ["head=huggingface"])
    assert settings.head == "huggingface"
    with pytest.raises(UserError, match="beam_size = 20 does nothing with head = 'huggingface'"):
        new_settings("span-extraction", encoder, None, ["head=huggingface", "beam_size=20"])
    assert begins("from_scratch=true") == own
    assert begins() == begins("from_scratch=false") == usual != own
    assert begins("from_scratch=true", "initializer_range=0.3") == {
        **own, "initializer_range": 0.3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hidden_size=16", "hidden_size = 16 does not fit the model in .* has 32: leave it out"),
        ("lowercase=false", "lowercase = False does not fit"),
        ("task=regression", "task = 'regression' is not the 'tagging' of --task: leave it out"),
        ("max_length=41", "max_length = 41: the model reads 40 tokens at most"),
        ("max_length=7", "out of its range"),
        ("learning_rat=1", "nearest one is 'learning_rate'"),
        ("batch_size=5", None),
        ("accumulate=5", "no multiple of accumulate"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    given: str, message: str | None, tmp_path: Path
) -> None:
    encoder = find_encoder(write_encoder(tmp_path / "run"))
    if message is None:
        assert new_settings("tagging", encoder, None, [given]).batch_size == 5
        return
    with pytest.raises(UserError, match=message):
        new_settings("tagging", encoder, None, [given])


@pytest.mark.parametrize(
    ("changes", "features", "expected"),
    [
        ({"epochs": 3.0, "batch_size": 32}, 320, (30, 3, 10, 10)),
        ({"epochs": 3.0, "batch_size": 32}, 321, (33, 3, 11, 11)),
        ({"epochs": 2.5, "batch_size": 32}, 321, (27, 2, 11, 11)),
        ({"epochs": 0.01, "batch_size": 32}, 3, (1, 0, 1, 1)),
        ({"steps": 7, "warmup_steps": 2}, 320, (7, 2, 10, 10)),
        ({"warmup_proportion": 0.5, "evaluate_every": 4}, 320, (30, 15, 4, 10)),
        ({"checkpoint_every": 5}, 320, (30, 3, 10, 5)),
        ({"warmup_proportion": 0.0}, 320, (30, 0, 10, 10)),
    ],
)  # fmt: skip
def test_steps_and_intervals_follow_from_the_features(
    changes: dict[str, Any], features: int, expected: tuple[int, ...]
) -> None:
    found = with_steps(FinetuningConfig(**changes), features)
    intervals = found.evaluate_every, found.checkpoint_every
    assert (found.steps, found.warmup_steps, *intervals) == expected
