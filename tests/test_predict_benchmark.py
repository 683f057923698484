"""The prediction benchmark runs, and its rivals read the same texts. No time is asserted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import predict
from benchmarks.prediction import (
    Reading,
    batches_of,
    expected_logits,
    prepare_electra_ref,
    relative_error,
    sentence_lengths,
    text_lengths,
)
from benchmarks.prediction_rivals import RIVALS, rivals_of
from benchmarks.turns import Turn
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError

SIZES = [
    *("embedding_size=16", "hidden_size=32", "num_attention_heads=2", "intermediate_size=48"),
    *("num_hidden_layers=2", "max_position_embeddings=64", "max_length=64", "vocab_size=64"),
]
TOY = [argument for size in SIZES for argument in ("--set", size)]
TOY += ["--repeats", "2", "--warmup", "0", "--threads", "1", "--texts", "9"]


def toy_config() -> PretrainingConfig:
    return resolve_config(preset="small", settings=SIZES)


@pytest.mark.slow
def test_last_line_holds_figures_and_their_origin(capfd: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch-tokens", "64", "200", "--workloads", "sentences", "512"]
    assert predict.main([*TOY, *sizes, "--rivals", "cpu-float32"]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["benchmark"] == "predict"
    assert summary["config"]["vocab_size"] == 64
    assert "commit" in summary["machine"]
    sentences, long = summary["workloads"]
    assert (sentences["workload"], sentences["texts"]) == ("sentences", 9)
    assert (long["workload"], long["tokens"]) == ("512", 8192)  # in texts of at most 64 tokens
    for workload in (sentences, long):
        (result,) = workload["results"]
        by_size = result["seconds_by_batch_tokens"]
        assert list(by_size) == ["64", "200"]
        assert result["seconds"]["median"] == by_size[str(result["batch_tokens"])]
        assert by_size[str(result["batch_tokens"])] == min(by_size.values())
        assert result["tokens_per_second"]["max"] == pytest.approx(
            workload["tokens"] / result["seconds"]["min"]
        )
        assert workload["times_as_fast"] == {}
    assert sum("cpu-float32" in line for line in table) == 2


def test_batches_hold_all_texts_the_longest_first() -> None:
    batches = list(batches_of(Reading([3, 9, 5, 9, 2, 30], 20), 100))
    assert [batch.attention_mask.sum(axis=1).tolist() for batch in batches] == [
        [30], [9, 9], [5, 3, 2],
    ]  # fmt: skip
    for batch in batches:
        assert batch.input_ids.shape[1] == batch.attention_mask[0].sum()
        assert (batch.input_ids[~batch.attention_mask] == 0).all()
        assert (batch.input_ids[batch.attention_mask] != 0).all()


def test_lengths_are_those_of_sentences() -> None:
    lengths = sentence_lengths()
    assert 10 <= np.median(lengths) <= 30
    assert min(lengths) >= 3
    drawn = text_lengths("sentences", 500, 512)
    assert drawn == text_lengths("sentences", 500, 512)
    assert set(drawn) <= {*lengths, 128}
    assert max(text_lengths("sentences", 500, 40)) == 40
    assert text_lengths("512", 500, 512) == [512] * 16


@pytest.mark.parametrize("precision", ["float32"])
def test_ours_finds_what_the_formulas_say(precision: str) -> None:
    config = toy_config()
    reading = Reading([5, 3, 17], 40)
    expected = expected_logits(config, reading)
    step = prepare_electra_ref(config, "cpu", precision)
    figures = step(reading._replace(expected=expected))
    assert figures["error"] <= predict.TOLERANCES[precision]
    assert figures["padding"] == pytest.approx(12 / 37)
    wrong = [1.001 * logits for logits in expected]
    assert step(reading._replace(expected=wrong))["error"] > 5e-4


def test_padding_does_not_count_as_an_error() -> None:
    logits, tokens = np.array([[3.0, 4.0, 9.0]]), np.array([[True, True, False]])
    expected = np.array([[3.0, 4.5, 0.0]], np.float32)
    error = relative_error([(logits, tokens)], [expected])
    assert error == pytest.approx(0.5 / np.hypot(3.0, 4.5))


def turns_of(seconds: list[float]) -> list[Turn]:
    return [Turn(s, 2 * s, {"padding": 0.0}, 1) for s in seconds]


def test_each_rival_is_judged_by_its_best_batches_and_modes_of_its_precision() -> None:
    rivals = [r for r in RIVALS if r.name in ("cpu-float32", "eager-float32", "sdpa-float32")]
    rivals += [r for r in RIVALS if r.name == "eager-bfloat16"]
    seconds: dict[tuple[str, int], list[float]] = {
        ("cpu-float32", 1): [2.0, 2.0, 4.0],
        ("cpu-float32", 2): [1.0, 3.0, 9.0],
        ("eager-float32", 1): [9.0, 9.0, 9.0],
        ("eager-float32", 2): [8.0, 8.0, 8.0],
        ("sdpa-float32", 1): [3.0, 3.0, 5.0],
        ("sdpa-float32", 2): [7.0, 7.0, 7.0],
        ("eager-bfloat16", 1): [0.1, 0.1, 0.1],
        ("eager-bfloat16", 2): [0.1, 0.1, 0.1],
    }
    turns = {key: turns_of(values) for key, values in seconds.items()}
    results = [predict.rival_figures(rival, turns, [1, 2], [10]) for rival in rivals]
    assert [result["batch_tokens"] for result in results] == [1, 2, 1, 1]
    ratio = predict.times_as_fast(rivals, results, turns)["cpu-float32"]
    assert (ratio["fastest_mode"], ratio["modes"]) == ("sdpa-float32", 2)
    assert ratio["seconds"] == {"min": 1.25, "median": 1.5, "max": 1.5}
    assert ratio["cpu_seconds"] == ratio["seconds"]


@pytest.mark.parametrize("error", [1e-4, float("nan")])
def test_a_rival_with_other_logits_is_refused(error: float) -> None:
    turn = Turn(1.0, 1.0, {"error": error}, 1)
    with pytest.raises(UserError, match="cpu-float32: its logits are off by"):
        predict.check_logits([RIVALS[0]], [turn])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rivals", "tensorflow"], "--rivals tensorflow: none of cpu-float32"),
        (["--rivals", "cpu-float32", "cpu-float32"], "given twice"),
        (["--batch-tokens", "0"], "--batch-tokens 0: at least 1"),
        (["--texts", "0"], "--texts 0: at least 1"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([*TOY, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_bfloat16_is_timed_where_there_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = "electra_ref.backends.cpu.bfloat16.is_compiled"
    monkeypatch.setattr("benchmarks.choosing.find_spec", lambda _: True)
    for has_instructions in (True, False):
        monkeypatch.setattr(compiled, lambda has=has_instructions: has)
        rivals = rivals_of(None)
        assert any(rival.precision == "bfloat16" for rival in rivals) == has_instructions
        assert not any(rival.compiled for rival in rivals)
        assert any(rival.compiled for rival in rivals_of(["all"]))
    with pytest.raises(UserError, match="--rivals cpu-bfloat16: this processor has no AVX512_BF16"):
        rivals_of(["cpu-bfloat16"])


@pytest.mark.oracle
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_finds_the_same(attention: str) -> None:
    from benchmarks.transformers_prediction import prepare_transformers  # noqa: PLC0415

    config = toy_config()
    reading = Reading([5, 3, 17], 40)
    reading = reading._replace(expected=expected_logits(config, reading))
    options: dict[str, Any] = {"attention": attention, "compiled": False, "threads": 1}
    for precision, autocast in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        step = prepare_transformers(config, precision, autocast=autocast, **options)
        assert step(reading)["error"] <= predict.TOLERANCES[precision]
