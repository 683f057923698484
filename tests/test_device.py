"""Choosing a device, and the formulas on arrays that are not NumPy's."""

from __future__ import annotations

import re
import sys
from unittest import mock

import numpy as np
import pytest

from electra_ref import arrays
from electra_ref.arrays import Array, get_xp
from electra_ref.backends import Backend, gpu, open_backend, reference, why_no_gpu
from electra_ref.batch import Batch
from electra_ref.errors import UserError
from electra_ref.model.objectives import electra
from electra_ref.training.pretraining.task import evaluate_batch
from electra_ref.training.step import train_step
from tests import stand_in_cupy
from tests.tiny_electra import VOCAB_SIZE, tiny_config, tiny_model, tiny_state

CONFIG = tiny_config(
    batch_size=4, max_length=9, mask_probability=0.3, learning_rate=0.01, warmup_steps=0, steps=9
)


def draw_batch() -> Batch:
    random = np.random.default_rng(0)
    attention_mask = np.arange(9) < np.array([9, 7, 9, 3])[:, None]
    ids = np.where(attention_mask, random.integers(5, VOCAB_SIZE, (4, 9)), 0).astype(np.int32)
    return Batch(ids, np.zeros_like(ids), attention_mask)


def train(backend: Backend, dtype: str, steps: int) -> tuple[Array, list[float]]:
    """Return the parameters after ``steps`` steps on one batch, and the losses on the way."""
    state, model = tiny_state(CONFIG, dtype, backend), tiny_model(CONFIG)
    batches = [Batch(*part) for part in zip(*(np.split(a, 2) for a in draw_batch()), strict=True)]
    losses = [
        train_step(CONFIG, backend, electra, model, state, batches).loss for _ in range(steps)
    ]
    evaluate_batch(CONFIG, backend, model, state.parameters, draw_batch(), 0)
    return backend.to_host(state.parameters.vector), losses


def test_the_formulas_keep_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No NumPy function, no host array in a step on device arrays, and the same result."""
    stand_in_cupy.install(monkeypatch)
    expected, expected_losses = train(reference, "float64", steps=3)
    vector, losses = train(gpu, "float64", steps=3)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    np.testing.assert_allclose(vector, expected, rtol=1e-9)


def test_the_stand_in_refuses_host_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = stand_in_cupy.install(monkeypatch)
    device, host = cupy.asarray(np.ones(3)), np.ones(3)
    for mixed in (
        lambda: device + host,
        lambda: device.__iadd__(host),
        lambda: np.concatenate([device, device]),
        lambda: cupy.where(device > 0, device, host),
        lambda: cupy.sqrt(host),
        lambda: device.__setitem__(slice(None), host),
    ):
        with pytest.raises(TypeError):
            mixed()
    assert get_xp(device) is cupy
    with pytest.raises(TypeError, match="all be CuPy's"):
        get_xp(device, host)


def test_gpu_without_cupy_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(UserError, match="CuPy is not installed"):
        open_backend("gpu", "auto")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("\n=====\nFailed to import CuPy.\nmore"), "Failed to import CuPy."),
        (ModuleNotFoundError("No module named 'numpy.x'", name="numpy.x"), "No module named .*"),
    ],
)
def test_a_cupy_that_cannot_be_loaded_is_one_clear_line(
    error: ImportError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has it has asked for a GPU."""
    monkeypatch.setattr(arrays, "import_cupy", mock.Mock(side_effect=error))
    message = rf"CuPy cannot be loaded \({reason}\)"
    with pytest.raises(UserError, match=rf"^--device gpu: {message}; use --device cpu$"):
        open_backend("gpu", "auto")
    assert re.search(rf"\(auto: {message}\)$", open_backend("auto", "float32").reason)


@pytest.mark.parametrize(
    ("message", "reason"), [("no CUDA device\nand more", "no CUDA device"), ("", "RuntimeError")]
)
def test_auto_says_what_it_took_and_why(
    message: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only to those who have CuPy: nobody else has asked for a GPU."""

    useless = mock.MagicMock()
    useless.ones.side_effect = RuntimeError(message)
    with mock.patch.dict(sys.modules, cupy=None):
        opened = open_backend("auto", "float32")
    assert opened == open_backend("cpu", "float32")
    assert opened.reason == "device: cpu, float32"
    monkeypatch.setattr(arrays, "import_cupy", lambda: useless)
    opened = open_backend("auto", "float32")
    assert opened.device == "cpu"
    assert opened.reason == f"device: cpu, float32 (auto: CuPy finds no usable GPU ({reason}))"


@pytest.mark.gpu
def test_a_gpu_trains_like_the_processor() -> None:
    """Ten steps in float64: dropout, masks and samples are the same integers on both."""
    expected, expected_losses = train(reference, "float64", steps=10)
    opened = open_backend("gpu", "float64")
    assert opened.name == "gpu"
    vector, losses = train(opened.backend, "float64", steps=10)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    # The bias of the key has gradient zero, so its entries are rounding errors of 1e-19.
    np.testing.assert_allclose(vector, expected, rtol=1e-6, atol=1e-12 * np.abs(expected).max())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_twice() -> None:
    opened = open_backend("gpu", "float32")
    assert opened.name == "gpu"
    first, second = (train(opened.backend, "float32", steps=5)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_reason_for_no_gpu_is_one_line() -> None:
    assert "\n" not in (why_no_gpu() or "")
