"""The table of names: complete for every model, one-to-one, with the counts of the format."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.batch import SpecialTokens
from electra_ref.config.model import EncoderSize
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.heads.detection import detection_head_specs
from electra_ref.model.heads.vocabulary import vocabulary_head_specs
from electra_ref.model.networks import Network, Networks
from electra_ref.model.objectives.table import objective_of
from electra_ref.model.parameters import FlatParameters, ParameterSpec, parameter_table
from electra_ref.training.huggingface.names import Tensor, tensors_of
from tests.tiny_electra import SPECIAL_TOKENS, tiny_config
from tests.variants import VARIANTS

UNTIED = ("electra", "mlm", "replace-mlm", "all-tokens-mlm, sharing-none", "sharing-all",
          "sharing-gdes")  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    **VARIANTS,
    **{f"{name}, untied": {**VARIANTS[name], "tie_word_embeddings": False} for name in UNTIED},
    "as wide as its embeddings": {"embedding_size": 8, "generator_hidden_size": 1.0},
    "five segments": {"type_vocab_size": 5},
    "one layer": {"num_hidden_layers": 1},
}


def model_config(name: str) -> PretrainingConfig:
    return tiny_config(**{"max_length": 17, "max_position_embeddings": 18, **MODELS[name]})


def networks_of(config: PretrainingConfig, special: SpecialTokens = SPECIAL_TOKENS) -> Networks:
    objective = objective_of(config)
    return objective.networks_of(objective.model_of(config, config, special))


def specs_of(part: str, network: Network) -> list[ParameterSpec]:
    heads = {"discriminator": detection_head_specs, "generator": vocabulary_head_specs}
    return parameter_table([encoder_specs(network), heads[part](network)])


def their_shapes(part: str, config: PretrainingConfig, size: EncoderSize) -> dict[str, Any]:
    """Return names and shapes as the documentation of the format lists them."""
    e, h, i = config.embedding_size, size.hidden_size, size.intermediate_size
    v = config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "electra.embeddings.word_embeddings.weight": (v, e),
        "electra.embeddings.position_embeddings.weight": (config.max_position_embeddings, e),
        "electra.embeddings.token_type_embeddings.weight": (config.type_vocab_size, e),
        "electra.embeddings.LayerNorm.weight": (e,),
        "electra.embeddings.LayerNorm.bias": (e,),
    }
    linear = {} if e == h else {"electra.embeddings_project": (h, e)}
    norms: dict[str, int] = {}
    for number in range(size.num_hidden_layers):
        layer = f"electra.encoder.layer.{number}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{name}"] = (h, h)
        linear |= {f"{layer}.intermediate.dense": (i, h), f"{layer}.output.dense": (h, i)}
        norms |= {f"{layer}.attention.output.LayerNorm": h, f"{layer}.output.LayerNorm": h}
    if part == "discriminator":
        linear["discriminator_predictions.dense"] = (h, h)
        linear["discriminator_predictions.dense_prediction"] = (1, h)
    else:
        linear["generator_predictions.dense"] = (e, h)
        norms["generator_predictions.LayerNorm"] = e
        shapes["generator_lm_head.bias"] = (v,)
        if not config.tie_word_embeddings:
            shapes["generator_lm_head.weight"] = (v, e)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


@pytest.mark.parametrize("name", MODELS)
def test_the_table_is_that_of_the_format(name: str) -> None:
    config = model_config(name)
    networks = networks_of(config)
    tables = tensors_of(networks)
    assert list(tables) == [p for p, network in networks._asdict().items() if network is not None]
    for part, tensors in tables.items():
        network: Network = getattr(networks, part)
        found = {tensor.name: tensor.shape for tensor in tensors}
        assert len(found) == len(tensors)
        assert found == their_shapes(part, config, network.size)


def numbered(specs: list[ParameterSpec]) -> FlatParameters:
    return FlatParameters(specs, np.arange(sum(math.prod(s.shape) for s in specs), dtype=float))


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_ours_is_in_one_place_of_theirs(name: str) -> None:
    for part, tensors in tensors_of(networks_of(model_config(name))).items():
        specs = specs_of(part, getattr(networks_of(model_config(name)), part))
        parameters = numbered(specs)
        views = [tensor.view(parameters) for tensor in tensors]
        assert [view.shape for view in views] == [tensor.shape for tensor in tensors]
        numbers = np.concatenate([view.reshape(-1) for view in views])
        np.testing.assert_array_equal(np.sort(numbers), parameters.vector)
        for tensor in tensors:  # what is written to a view reaches the parameters
            tensor.view(parameters)[...] = -1.0
        assert (parameters.vector == -1.0).all()


def tensor_called(tensors: list[Tensor], name: str) -> Tensor:
    (found,) = (tensor for tensor in tensors if tensor.name == name)
    return found


def test_layouts_by_hand() -> None:
    """Matrices are transposed, tables are not; query, key and value stand side by side."""
    networks = networks_of(tiny_config(tie_word_embeddings=False))
    tables = tensors_of(networks)
    assert networks.generator is not None
    assert networks.discriminator is not None
    large = numbered(specs_of("discriminator", networks.discriminator))
    small = numbered(specs_of("generator", networks.generator))
    layer = "discriminator.layer.1"

    def theirs(name: str, part: str = "discriminator") -> Array:
        parameters = large if part == "discriminator" else small
        return tensor_called(tables[part], name).value(parameters)

    def equal(name: str, expected: Array, part: str = "discriminator") -> None:
        np.testing.assert_array_equal(theirs(name, part), expected)

    together = large[f"{layer}.attention.query_key_value.weight"]
    for name, start in (("query", 0), ("key", 8), ("value", 16)):
        stem = f"electra.encoder.layer.1.attention.self.{name}"
        equal(f"{stem}.weight", together[:, start : start + 8].T)
        bias = large[f"{layer}.attention.query_key_value.bias"]
        equal(f"{stem}.bias", bias[start : start + 8])
    equal("electra.encoder.layer.1.output.dense.weight", large[f"{layer}.output.weight"].T)
    equal("electra.encoder.layer.1.output.LayerNorm.weight", large[f"{layer}.layer_norm.weight"])
    name = "electra.encoder.layer.1.attention.output.LayerNorm.bias"
    equal(name, large[f"{layer}.attention.layer_norm.bias"])
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        equal(f"electra.embeddings.{table}.weight", large[f"embeddings.{table}.weight"])
    matrix = small["generator.head.output_embeddings.weight"]
    equal("generator_lm_head.weight", matrix, "generator")
    equal("generator_predictions.dense.weight", small["generator.head.dense.weight"].T, "generator")


def test_two_tables_that_are_read_as_their_sum_are_written_as_it() -> None:
    networks = networks_of(tiny_config(sharing="gdes"))
    objective = objective_of(tiny_config(sharing="gdes"))
    config = tiny_config(sharing="gdes")
    specs = objective.parameter_specs(objective.model_of(config, config, SPECIAL_TOKENS))
    parameters = numbered(specs)
    tensors = tensors_of(networks)
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        own, base = (
            parameters[f"{prefix}.{table}.weight"]
            for prefix in ("discriminator.embeddings", "embeddings")
        )
        name = f"electra.embeddings.{table}.weight"
        found = tensor_called(tensors["discriminator"], name)
        np.testing.assert_array_equal(found.value(parameters), own + base)
        found = tensor_called(tensors["generator"], name)
        np.testing.assert_array_equal(found.value(parameters), base)
    norm = tensor_called(tensors["discriminator"], "electra.embeddings.LayerNorm.weight")
    expected = parameters["discriminator.embeddings.layer_norm.weight"]
    np.testing.assert_array_equal(norm.value(parameters), expected)


# Tensors and parameters of the models of the paper, as transformers counts them. A generator's file
# has one tensor fewer than its state dict, where the output matrix is named again.
COUNTS = {
    "small": ((203, 13_549_057), (204, 4_620_026), 14_196_219),
    "base": ((201, 109_483_009), (204, 33_740_602), 119_386_427),
    "large": ((393, 335_142_913), (396, 51_295_290), 354_655_291),
}


@pytest.mark.parametrize("preset", COUNTS)
def test_counts_of_the_models_of_the_paper(preset: str) -> None:
    config = resolve_config(preset=preset, settings=["vocab_size=30522"])
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    discriminator, generator, both = COUNTS[preset]
    tensors = tensors_of(objective.networks_of(model))
    for part, expected in (("discriminator", discriminator), ("generator", generator)):
        count = sum(math.prod(tensor.shape) for tensor in tensors[part])
        assert (len(tensors[part]), count) == expected
    specs = objective.parameter_specs(model)
    assert sum(math.prod(spec.shape) for spec in specs) == both


def test_counts_of_the_small_model_that_was_published() -> None:
    """Its generator is as wide as its discriminator."""
    settings = ["vocab_size=30522", "generator_hidden_size=1"]
    config = resolve_config(preset="small", settings=settings)
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    tensors = tensors_of(objective.networks_of(model))["generator"]
    assert sum(math.prod(tensor.shape) for tensor in tensors) == 13_546_682
    specs = objective.parameter_specs(model)
    assert sum(math.prod(spec.shape) for spec in specs) == 23_122_875
