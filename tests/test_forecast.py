"""What is said before training: memory, passes over the data, time, and what is probably wrong."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.training.pretraining import forecast as forecast_module
from electra_ref.training.pretraining.forecast import (
    FEWEST_MASKED,
    LONG_SECONDS,
    MOST_EPOCHS,
    PROCESS_BYTES,
    Forecast,
    describe,
    forecast,
    memory_of,
    memory_of_machine,
    products_per_second,
    require_memory,
)
from electra_ref.training.pretraining.products import step_flop

CALM = Forecast(parameters=697_585, memory=10**9, epochs=5.25, flop=1e9, masked=5000.0)


class Rows:
    """Stands in for examples: what the forecast asks of them."""

    def __init__(self, count: int, tokens: int) -> None:
        self.count, self.tokens = count, tokens


def foreseen(config: PretrainingConfig, parameters: int = 1000, itemsize: int = 4) -> Forecast:
    rows: Any = Rows(400, 12_000)
    held_out: Any = Rows(50, 1500)
    return forecast(config, parameters, itemsize, rows, held_out)


def lines(needs: Forecast, *, on_gpu: bool = False, **changes: Any) -> list[str]:
    settings = [f"{key}={value}" for key, value in changes.items()]
    return list(describe(resolve_config(settings=settings), needs, on_gpu=on_gpu))


def test_a_forecast_by_hand() -> None:
    config = resolve_config(
        settings=[
            *("vocab_size=100", "max_length=16", "batch_size=8", "accumulate=4", "steps=300"),
            *("hidden_size=128", "num_hidden_layers=3", "intermediate_size=200"),
            *("evaluation_batches=5", "mask_probability=0.2"),
        ]
    )  # the generator: width 8, one head, 2 layers (half of 3, to even), feed-forward 32
    needs = foreseen(config)
    assert needs.epochs == 300 * 8 / 400
    assert needs.masked == pytest.approx(0.2 * 1500 * 40 / 50)
    kept = 3 * (8 * 128 + 2 * 200 + 4 * 16) + 2 * (8 * 8 + 2 * 32 + 1 * 16) + 2 * 100 * 3 / 16
    numbers = (4 + 2) * 1000 + 2 * 16 * kept  # itself, gradient, moments; two more gradients
    assert needs.memory == int(4 * numbers) + PROCESS_BYTES
    assert foreseen(config, itemsize=8).memory == int(8 * numbers) + PROCESS_BYTES


def test_far_too_much_memory_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_config(preset="base", settings=["vocab_size=30522"])
    available = 24 * 10**9
    monkeypatch.setattr(forecast_module, "memory_of_machine", lambda: available)
    with pytest.raises(
        UserError, match=r"about \d+.\d GB .* 24.0 GB; --set accumulate=\d+"
    ) as error:
        require_memory(config, 119_000_000, 4)
    accumulate = int(str(error.value).partition("accumulate=")[2].partition(" ")[0])
    fits = dataclasses.replace(config, accumulate=accumulate)
    tight = dataclasses.replace(config, accumulate=accumulate // 2)
    assert memory_of(fits, 119_000_000, 4) < available <= memory_of(tight, 119_000_000, 4)
    require_memory(fits, 119_000_000, 4)
    needed = memory_of(config, 119_000_000, 4)
    monkeypatch.setattr(forecast_module, "memory_of_machine", lambda: int(needed / 1.49))
    require_memory(config, 119_000_000, 4)  # a forecast may be wrong by so much
    monkeypatch.setattr(forecast_module, "memory_of_machine", lambda: 10**9)
    with pytest.raises(UserError, match="choose a smaller preset"):
        require_memory(config, 119_000_000, 4)


TWO_STAGES = ["sharing=none", "generator_hidden_size=1", "generator_layers=1"]
TWO_STAGES += ["num_attention_heads=2", "intermediate_size=512", "two_stage_steps=4"]


def test_operations_are_those_of_all_steps() -> None:
    config = resolve_config(settings=["vocab_size=100", "steps=10", *TWO_STAGES])
    first, second = step_flop(config), step_flop(config, 4)
    assert foreseen(config).flop == 4 * first + 6 * second
    assert second > first


KEPT = {"generator": 2 * 16 * (8 * 8 + 2 * 32 + 16), "encoder": 3 * 16 * (8 * 128 + 400 + 4 * 16)}
WORDS = 2 * 100 * 3  # of a sequence: 3 masked slots


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((), KEPT["generator"] + KEPT["encoder"] + WORDS),
        (("objective=mlm",), KEPT["encoder"] + WORDS),
        (("objective=replace-mlm",), KEPT["generator"] + KEPT["encoder"] + 2 * WORDS),
        (("objective=all-tokens-mlm",), KEPT["generator"] + KEPT["encoder"] + WORDS),
        (("uniform_generator=true",), KEPT["encoder"]),
        (("adversarial=reinforce",), KEPT["generator"] + KEPT["encoder"] + WORDS + 300),
        (("adversarial=gumbel-softmax",), KEPT["generator"] + KEPT["encoder"] + WORDS + 300),
        (TWO_STAGES, 3 * 16 * (8 * 128 + 2 * 512 + 2 * 16) + WORDS),
        (  # the generator reads 16 tokens, the discriminator 31
            ("discriminator_input=paired", "max_length=31"),
            KEPT["generator"] + 3 * 31 * (8 * 128 + 400 + 4 * 31) + WORDS,
        ),
    ],
    ids=str,
)
def test_memory_follows_what_runs(settings: Sequence[str], kept: int) -> None:
    sizes = ["vocab_size=100", "max_length=16", "batch_size=8", "accumulate=4"]
    sizes += ["hidden_size=128", "num_hidden_layers=3", "intermediate_size=200"]
    config = resolve_config(settings=[*sizes, "mask_probability=0.2", *settings])
    assert memory_of(config, 1000, 4) == 4 * ((4 + 2) * 1000 + 2 * kept) + PROCESS_BYTES


def test_a_calm_run_gets_one_line() -> None:
    assert lines(CALM) == [
        "model: 697,585 parameters, about 1.0 GB of memory; 1,500 steps see the data 5.2 times"
    ]


@pytest.mark.parametrize(
    ("needs", "changes", "word"),
    [
        (CALM._replace(epochs=MOST_EPOCHS + 1.0), {}, "seen 101 times"),
        (CALM, {"warmup_steps": 1500}, "warmup_steps = 1,500 is not below steps = 1,500"),
        (CALM._replace(masked=FEWEST_MASKED - 1.0), {}, "about 999 masked tokens"),
        (CALM._replace(memory=10**15), {}, "this needs about 1000000.0 GB of memory, and there"),
        (CALM._replace(flop=49 * 86_400 * 1e11), {}, "1,500 steps take about 49 days"),
    ],
)
def test_what_is_probably_a_mistake_is_named(
    needs: Forecast, changes: dict[str, Any], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_module, "products_per_second", lambda: 1e11)
    _, warning = lines(needs, **changes)
    assert warning.startswith("warning: ")
    assert word in warning


def test_limits_belong_to_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_module, "products_per_second", lambda: 1e11)
    monkeypatch.setattr(forecast_module, "memory_of_machine", lambda: 5000)
    needs = CALM._replace(
        epochs=MOST_EPOCHS, masked=FEWEST_MASKED, memory=5000, flop=LONG_SECONDS * 1e11
    )
    assert len(lines(needs, warmup_steps=1499)) == 1


def test_what_cannot_change_is_not_proposed_to_a_resumed_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast_module, "products_per_second", lambda: 1e11)
    config = resolve_config(preset="base", settings=["vocab_size=30522"])
    needs = CALM._replace(memory=10**15, flop=1e20, masked=5.0)
    new = "".join(describe(config, needs, on_gpu=False))
    resumed = "".join(describe(config, needs, on_gpu=False, resumed=True))
    for word in ("accumulate", "held_out_fraction", "tiny"):
        assert word in new
        assert word not in resumed
    monkeypatch.setattr(forecast_module, "memory_of_machine", lambda: 10**9)
    with pytest.raises(UserError, match=r"resume it on a machine with more$"):
        require_memory(config, 119_000_000, 4, resumed=True)


def test_a_gpu_is_not_measured_by_the_processor() -> None:
    assert len(lines(CALM._replace(memory=10**15, flop=1e30), on_gpu=True)) == 1


def test_the_processor_is_measured() -> None:
    assert 1e8 < products_per_second() < 1e14


def test_a_container_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(forecast_module, "_CGROUP_LIMIT", limit)
    whole = memory_of_machine()
    limit.write_text("max\n")
    assert memory_of_machine() == whole > 2**27
    limit.write_text(f"{2**26}\n")
    assert memory_of_machine() == 2**26


MEASURED = """
import sys
import numpy as np
from electra_ref.backends import open_backend
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.pretraining import resolve_config
from electra_ref.model.objectives import electra
from electra_ref.training.pretraining.task import initial_state
from electra_ref.training.step import train_step

config = resolve_config(preset="small", settings=sys.argv[1:])
opened = open_backend("cpu", "float32")
model = electra.model_of(config, config, SpecialTokens(0, 1, 2, 3, 4))
state = initial_state(config, opened.backend, model, opened.dtype)
shape = config.batch_size // config.accumulate, config.max_length
ids = np.random.default_rng(0).integers(5, config.vocab_size, shape).astype(np.int32)
batch = Batch(ids, np.zeros(shape, np.int32), np.ones(shape, bool))
for _ in range(2):
    train_step(config, opened.backend, electra, model, state, [batch] * config.accumulate)
status = open("/proc/self/status").read()  # ru_maxrss begins with that of the parent
print(state.parameters.vector.size, 1024 * int(status.partition("VmHWM:")[2].split()[0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["batch_size=24", "vocab_size=30522"],
        ["batch_size=32", "accumulate=4", "vocab_size=30522"],
        ["batch_size=4", "max_length=512", "vocab_size=5000"],
    ],
    ids=" ".join,
)
def test_the_memory_of_a_step_is_about_what_was_foreseen(changes: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", MEASURED, *changes],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(forecast_module.__file__).parents[3],
    )
    assert finished.returncode == 0, finished.stderr
    parameters, peak = (int(word) for word in finished.stdout.split())
    needs = foreseen(resolve_config(preset="small", settings=changes), parameters)
    assert 0.65 < needs.memory / peak < 1.5
