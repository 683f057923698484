"""The matrix products of a step: counted by hand for each objective, and as NumPy makes them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from electra_ref.backends import Backend, reference
from electra_ref.config.objective import OBJECTIVES
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.model.objectives.table import objective_of
from electra_ref.training.pretraining.products import run_flop, step_flop, step_products
from electra_ref.training.pretraining.task import initial_state
from electra_ref.training.step import train_step
from tests.test_metamorphic import draw_rows
from tests.tiny_electra import SPECIAL_TOKENS, tiny_config

B, T, M, E, V = 3, 9, 3, 5, 13


def sized(**changes: object) -> PretrainingConfig:
    """Return the sizes above; the generator has C 4, F 16 and the discriminator C 8, F 11."""
    return tiny_config(**{"mask_probability": 0.4, **changes})


TWO_STAGES = {
    "sharing": "none", "generator_hidden_size": 1.0, "num_attention_heads": 1,
    "intermediate_size": 32, "two_stage_steps": 4, "steps": 10,
}  # fmt: skip


def encoder(width: int, intermediate: int, length: int = T) -> int:
    """Return the FLOP of two layers: six for each weight and token, twelve for attention."""
    weights = E * width + 2 * (4 * width**2 + 2 * width * intermediate)
    return B * length * (6 * weights + 2 * 12 * length * width)


def words(width: int, positions: int, times: int = 6) -> int:
    return B * positions * (6 * width * E + times * E * V)


def detection(positions: int = T) -> int:
    return B * positions * 6 * (8 * 8 + 8)


GENERATOR = encoder(4, 16) + words(4, M)
DISCRIMINATOR = encoder(8, 11) + detection()


@pytest.mark.parametrize(
    ("settings", "flop"),
    [
        ({}, GENERATOR + DISCRIMINATOR),
        ({"objective": "electra-15"}, GENERATOR + DISCRIMINATOR),
        ({"objective": "mlm"}, encoder(8, 11) + words(8, M)),
        ({"objective": "replace-mlm"}, GENERATOR + encoder(8, 11) + words(8, M)),
        ({"objective": "all-tokens-mlm"}, GENERATOR + DISCRIMINATOR + words(8, T, times=8)),
        ({"uniform_generator": True}, DISCRIMINATOR),
        ({"adversarial": "reinforce"}, GENERATOR + DISCRIMINATOR + B * M * 6 * 4),
        (
            {"adversarial": "gumbel-softmax", "straight_through": True},
            GENERATOR + DISCRIMINATOR + B * M * 2 * E * V,
        ),
        (
            {"adversarial": "gumbel-softmax", "straight_through": False},
            GENERATOR + DISCRIMINATOR + B * M * 6 * E * V,
        ),
        (
            {"discriminator_input": "paired", "max_length": 15, "max_position_embeddings": 20},
            encoder(4, 16, 8) + words(4, M) + encoder(8, 11, 15) + detection(15),
        ),
        ({"sharing": "none"}, GENERATOR + DISCRIMINATOR),
        ({"sharing": "gdes"}, GENERATOR + DISCRIMINATOR),
    ],
    ids=str,
)
def test_a_step_by_hand(settings: dict[str, object], flop: int) -> None:
    assert step_flop(sized(**settings)) == flop


def test_a_width_of_the_embeddings_needs_no_projection() -> None:
    config = sized(generator_hidden_size=5 / 8)
    without_projection = encoder(5, 20) - B * T * 6 * E * 5
    assert step_flop(config) == without_projection + words(5, M) + DISCRIMINATOR


def test_the_second_stage_runs_the_generator_forward_only() -> None:
    config, generator = sized(**TWO_STAGES), encoder(8, 32) + words(8, M)
    assert step_flop(config, 3) == generator
    assert step_flop(config, 4) == generator // 3 + encoder(8, 32) + detection()
    names = {product.name for product in step_products(config, 4)}
    assert "generator.head.output y" in names
    assert "generator.head.output dx" not in names


def test_a_run_is_the_sum_of_its_steps() -> None:
    assert run_flop(sized(steps=7)) == 7 * (GENERATOR + DISCRIMINATOR)
    for two_stage_steps in (1, 4, 9):
        config = sized(**{**TWO_STAGES, "two_stage_steps": two_stage_steps})
        for steps in (0, 1, 4, 9):
            assert run_flop(config, steps) == sum(step_flop(config, step) for step in range(steps))
        assert run_flop(config) == sum(step_flop(config, step) for step in range(10))


def test_rows_without_a_masked_token_have_no_products() -> None:
    with pytest.raises(UserError, match="mask"):
        step_products(sized(mask_probability=0.001))


class Counted(np.ndarray[Any, Any]):
    """An array that notes the FLOP of the products it takes part in."""

    __module__ = "numpy"  # so that the formulas take it for one of NumPy's
    made: list[int]

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Compute with plain arrays; return counted ones."""
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if "out" in options:
            options["out"] = tuple(x.view(np.ndarray) for x in options["out"])
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            self.made.append(2 * result.size * plain[0].shape[-1])
        return _count(result, self.made) if isinstance(result, np.ndarray) else result

    def __array_finalize__(self, source: Any) -> None:
        self.made = getattr(source, "made", [])


def _count(array: npt.NDArray[Any], made: list[int]) -> Counted:
    counted = array.view(Counted)
    counted.made = made
    return counted


class CountingBackend:
    """The reference, whose operations get counted arrays and return plain ones."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(reference, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            counted = _map_arrays(lambda x: _count(x, self.made), arguments)
            return _map_arrays(lambda x: x.view(np.ndarray), operation(*counted, **options))

        return counting


def _map_arrays(change: Any, value: Any) -> Any:
    """Return ``value`` with all arrays in its tuples changed; an operation adds to the others."""
    if isinstance(value, np.ndarray):
        return change(value)
    if isinstance(value, tuple):
        parts = [_map_arrays(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


ALL_SETTINGS = [
    {},
    {"generator_hidden_size": 5 / 8},
    {"hidden_size": 6, "num_attention_heads": 3, "num_hidden_layers": 3},
    {"max_length": 8, "batch_size": 2, "mask_probability": 0.15},
    *({"objective": objective} for objective in OBJECTIVES),
    {"objective": "replace-mlm", "uniform_generator": True},
    {"uniform_generator": True},
    {"sharing": "none"},
    {"sharing": "gdes"},
    {"sharing": "all", "generator_hidden_size": 1.0},
    {"adversarial": "reinforce"},
    {"adversarial": "gumbel-softmax"},
    {"adversarial": "gumbel-softmax", "straight_through": False},
    {"discriminator_input": "paired", "max_length": 15, "max_position_embeddings": 20},
    {**TWO_STAGES, "two_stage_steps": 1},
]


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_numpy_makes_as_many_operations(settings: dict[str, Any]) -> None:
    config = sized(**settings)
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    state = initial_state(config, reference, model, "float64")
    batch = draw_rows(config.batch_size, config.row_length, seed=0)
    batch = batch._replace(attention_mask=np.ones_like(batch.attention_mask))  # padding has none
    for step in range(2):  # of two stages, one each
        backend = CountingBackend()
        train_step(config, cast(Backend, backend), objective, model, state, [batch])
        assert sum(backend.made) == step_flop(config, step)
        assert len(backend.made) == sum(p.repeats for p in step_products(config, step))
