"""The fine-tuning benchmark runs, and its rivals do the same work. No time is asserted."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from benchmarks import finetune, turns
from benchmarks.finetuning import (
    Reading,
    batches_of,
    expected_logits,
    prepare_electra_ref,
    row_lengths,
)
from benchmarks.predict import TOLERANCES
from benchmarks.prediction_rivals import RIVALS
from benchmarks.turns import Program, Turn
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.settings import resolve
from electra_ref.errors import UserError

SIZES = [
    *("embedding_size=16", "hidden_size=32", "num_attention_heads=2", "intermediate_size=48"),
    *("num_hidden_layers=2", "max_position_embeddings=64", "max_length=64", "vocab_size=64"),
]
TOY = [argument for size in SIZES for argument in ("--set", size)]
TOY += ["--repeats", "1", "--warmup", "0", "--threads", "1", "--rows", "9", "--batch-size", "4"]


def toy_config() -> FinetuningConfig:
    return resolve(FinetuningConfig, {}, settings=SIZES, base=finetune.BASE)


@pytest.mark.slow
def test_last_line_holds_figures_and_their_origin(capfd: pytest.CaptureFixture[str]) -> None:
    assert finetune.main([*TOY, "--rivals", "cpu-float32"]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert (summary["benchmark"], summary["batch_size"]) == ("finetune", 4)
    assert "commit" in summary["machine"]
    done = [(result["workload"], result["work"]) for result in summary["results"]]
    assert done == [
        ("phrases", "train"), ("phrases", "predict"), ("sentences", "train"),
        ("sentences", "predict"),
    ]  # fmt: skip
    for result in summary["results"]:
        (figures,) = result["results"]
        assert figures["rows_per_second"]["max"] == pytest.approx(9 / figures["seconds"]["min"])
        assert result["times_as_fast"] == {}
    assert sum("cpu-float32" in line for line in table) == 4


def test_lengths_are_those_of_sst2() -> None:
    phrases, sentences = (row_lengths(name, 5000, 512) for name in ("phrases", "sentences"))
    assert np.mean(phrases) == pytest.approx(13, abs=1)
    assert np.mean(sentences) == pytest.approx(25, abs=1)
    assert (min(phrases), max(phrases)) == (3, 64)
    assert max(row_lengths("sentences", 500, 20)) == 20


def test_batches_hold_all_rows_by_length_padded_to_a_multiple_of_eight() -> None:
    reading = Reading([3, 9, 5, 17, 4, 30], 2, learns=False)
    batches = list(batches_of(reading, 100))
    lengths = [batch.attention_mask.sum(axis=1).tolist() for batch in batches]
    assert lengths == [[3, 4], [5, 9], [17, 30]]
    assert [batch.input_ids.shape[1] for batch in batches] == [8, 16, 32]
    shuffled = list(batches_of(reading._replace(learns=True), 100))
    assert sorted(b.attention_mask.sum() for b in shuffled) == [7, 14, 47]


def test_ours_finds_what_the_formulas_say_and_learns() -> None:
    config, reading = toy_config(), Reading([5, 3, 17], 2, learns=False)
    step = prepare_electra_ref(config, "cpu", "float32")
    checked = reading._replace(expected=expected_logits(config, reading))
    assert step(checked)["error"] <= TOLERANCES["float32"]
    learning = reading._replace(learns=True)
    losses = [step(learning)["loss"] for _ in range(40)]
    assert losses[0] == pytest.approx(np.log(2), rel=0.1)
    assert losses[-1] < losses[0]
    assert step(reading) == {}


def test_ratios_are_to_the_fastest_mode_of_the_precision() -> None:
    rivals = [r for r in RIVALS if r.name in ("cpu-float32", "eager-float32", "sdpa-float32")]
    times = {"cpu-float32": 2.0, "eager-float32": 3.0, "sdpa-float32": 4.0}
    cpu = {"cpu-float32": 2.0, "eager-float32": 8.0, "sdpa-float32": 6.0}
    taken = {name: [Turn(times[name], cpu[name], {}, 1)] * 3 for name in times}
    (ratio,) = finetune.times_as_fast(rivals, taken).values()
    assert (ratio["seconds"]["mode"], ratio["seconds"]["median"]) == ("eager-float32", 1.5)
    assert (ratio["cpu_seconds"]["mode"], ratio["cpu_seconds"]["median"]) == ("sdpa-float32", 3.0)


def test_a_rival_that_takes_too_long_is_named() -> None:
    program = Program("tests.test_finetune_benchmark", "prepare_sleeper", {})
    with pytest.raises(UserError, match=r"slow: no answer after 0\.5 s; leave it out"):
        turns.take_turns({"slow": program}, [{"slow": None}], 1, lambda _: None, patience=0.5)


def prepare_sleeper() -> object:
    """Take longer than the patience above."""
    time.sleep(60)
    return None


def test_a_wrong_argument_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main([*TOY, "--rows", "0"]) == 2
    assert "--rows 0: at least 1" in capsys.readouterr().err


@pytest.mark.oracle
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_finds_and_learns_the_same(attention: str) -> None:
    from benchmarks.transformers_finetuning import prepare_transformers  # noqa: PLC0415

    config, reading = toy_config(), Reading([5, 3, 17], 2, learns=False)
    step = prepare_transformers(config, "float32", attention, compiled=False, threads=1)
    checked = reading._replace(expected=expected_logits(config, reading))
    assert step(checked)["error"] <= TOLERANCES["float32"]
    still = resolve(
        FinetuningConfig,
        {},
        settings=[*SIZES, "hidden_dropout=0", "attention_dropout=0", "head_dropout=0"],
        base=finetune.BASE,
    )
    theirs = prepare_transformers(still, "float32", attention, compiled=False, threads=1)
    ours, learning = prepare_electra_ref(still, "cpu", "float32"), reading._replace(learns=True)
    losses = [(ours(learning)["loss"], theirs(learning)["loss"]) for _ in range(3)]
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-5)
    # PyTorch's AdamW corrects the bias of its moments, so the steps are not the same
    for own, other in losses:
        assert own == pytest.approx(other, rel=1e-3)
