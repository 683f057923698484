"""The training-step benchmark runs, prints what it should, and counts its FLOP right.

No time is asserted. Rivals that are not installed are not needed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import (
    large_corpus,
    masking_and_sampling,
    scaling,
    tokenizer,
    train_step,
    vocabulary,
)
from benchmarks.comparison import check_losses, relative_to_pytorch
from benchmarks.electra_step import SPECIAL_TOKENS, make_batches, prepare_data_work
from benchmarks.harness import CHECKOUT, spread
from benchmarks.matrix_products import flop_by, prepare_floor
from benchmarks.operation_times import Timed, operation_figures
from benchmarks.rivals import RIVALS, rivals_of
from benchmarks.turns import Program, Turn, take_turns
from electra_ref.backends import Backend
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.errors import UserError
from electra_ref.masking import masked_slots
from electra_ref.model.objectives.electra import model_of, parameter_specs
from electra_ref.process import SPIN_TURNS
from electra_ref.training.pretraining.products import step_products

SIZES = [
    *("embedding_size=32", "hidden_size=64", "num_attention_heads=2", "intermediate_size=128"),
    *("num_hidden_layers=2", "generator_hidden_size=0.5"),
]
DATA_PARTS = ["tokenizing", "packing", "batch assembly", "masking", "sampling"]
TOY = ["--preset", "small", "--batch-size", "2", "--max-length", "32", "--vocab-size", "64"]
TOY += [argument for size in SIZES for argument in ("--set", size)]
TOY += ["--repeats", "1", "--warmup", "0", "--threads", "1"]


def toy_config(*settings: str) -> PretrainingConfig:
    sizes = ["batch_size=4", "max_length=32", "vocab_size=64"]
    return resolve_config(preset="small", settings=[*SIZES, *sizes, *settings])


@pytest.mark.slow
def test_last_line_holds_figures_and_their_origin(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_step.main([*TOY, "--rivals", "reference-float32"]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    keys = ("benchmark", "config", "threads", "repeats", "flop_per_token", "results", "data_work")
    assert set(keys) < set(summary)
    assert summary["config"]["vocab_size"] == 64
    rival, floor = summary["results"]
    assert (rival["name"], floor["name"]) == ("reference-float32", "floor")
    assert rival["ratio_to_first"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert rival["tokens_per_second"] == pytest.approx(64 / rival["all_seconds"][0])
    assert rival["ratio_to_floor"]["median"] == pytest.approx(
        rival["all_seconds"][0] / floor["all_seconds"][0]
    )
    assert rival["peak_megabytes"] > 10
    assert rival["loss"] == pytest.approx(np.log(64) + 50 * np.log(2), abs=2)
    assert list(summary["data_work"]) == ["share_of", *DATA_PARTS, "all"]
    assert summary["data_work"]["share_of"] == "reference-float32"
    machine = summary["machine"]
    assert {"date", "commit", "processor", "cores", "memory_gigabytes", "blas"} < set(machine)
    assert {"numpy", "numba", "torch", "transformers"} < set(machine["packages"])
    assert any("reference-float32" in line for line in table)


@pytest.mark.slow
def test_scaling_compares_each_size_with_the_first(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_points(config: PretrainingConfig) -> Any:
        yield "length", 64, dataclasses.replace(config, max_length=64, batch_size=1)

    monkeypatch.setattr(scaling, "scaling_points", two_points)
    assert train_step.main([*TOY, "--scaling", "--rivals", "reference-float32"]) == 0
    (point,) = json.loads(capfd.readouterr().out.splitlines()[-1])["scaling"]
    assert (point["varied"], point["value"]) == ("length", 64)
    assert point["attention"]["ratio_of_flop"] == 2
    assert point["step"]["ratio_of_flop"] > 1
    parts = [point[part]["seconds_per_token"]["median"] for part in ("step", "attention", "rest")]
    assert parts[0] == pytest.approx(parts[1] + parts[2])
    assert min(parts) > 0


def test_profile_accounts_for_the_whole_step(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_step.main([*TOY, "--profile", "--rivals", "reference-float32"]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    figures = json.loads(last)["operations"]["reference-float32"]
    assert {"linear", "attention_backward", "adamw", "global_norm"} < set(figures)
    step = figures.pop("step")
    assert sum(part["seconds"] for part in figures.values()) == pytest.approx(step["seconds"])
    assert figures["linear"]["gigaflop_per_second"] > 0
    assert figures["gelu"]["gigaflop_per_second"] == 0
    assert any(line.startswith("linear_backward ") for line in table)


def test_a_timed_object_passes_all_on_and_adds_up_its_methods() -> None:
    seconds: dict[str, float] = {"append": 5.0, "count": 0.0}
    waits: list[None] = []
    numbers: list[int] = []
    timed: Any = Timed(numbers, seconds, lambda: waits.append(None))
    timed.append(3)
    assert timed.count(3) == 1
    assert numbers == [3]
    assert len(waits) == 2
    assert seconds["append"] > 5.0
    assert timed.__doc__ is not None  # its own
    assert Timed(np.zeros(3), {}, waits.clear).size == 3


def test_operations_are_ranked_with_the_rate_of_their_products() -> None:
    turns = [Turn(4.0, 4.0, {"gelu": 1.0, "linear": 2.0}, 0) for _ in range(3)]
    figures = operation_figures(turns, {"linear": 6 * 10**9, "attention": 2 * 10**9})
    assert list(figures) == ["linear", "gelu", "all else", "step"]
    assert figures["linear"] == {"seconds": 2.0, "percent": 50.0, "gigaflop_per_second": 3.0}
    assert figures["gelu"]["gigaflop_per_second"] == 0.0
    assert figures["all else"]["seconds"] == 1.0
    assert figures["step"]["gigaflop_per_second"] == 2.0


def test_every_product_belongs_to_an_operation_of_the_backend() -> None:
    flop = flop_by("operation", step_products(toy_config()))
    assert set(flop) < set(dir(Backend))
    assert flop["linear_backward"] == 2 * flop["linear"]
    assert flop["attention_backward"] == 2 * flop["attention"]


def test_rivals_of_ours_are_set_beside_each_pytorch_mode() -> None:
    named = {rival.name: rival for rival in RIVALS}
    seconds = {"cpu-float32": 2.0, "pytorch-float32": 3.0, "pytorch-bfloat16": 1.0}
    peaks = {"cpu-float32": 50, "pytorch-float32": 100, "pytorch-bfloat16": 70}
    turns = {name: [Turn(s, s, {}, peaks[name])] * 2 for name, s in seconds.items()}
    (figures,) = relative_to_pytorch([named[name] for name in seconds], turns).values()
    times = {mode: each["median"] for mode, each in figures["times_as_fast_as"].items()}
    assert times == {"pytorch-float32": 1.5, "pytorch-bfloat16": 0.5}
    assert figures["fastest_mode"] == "pytorch-bfloat16"
    assert figures["memory"] == 0.5
    del seconds["pytorch-float32"]
    (figures,) = relative_to_pytorch([named[name] for name in seconds], turns).values()
    assert figures["memory"] is None


@pytest.mark.parametrize("loss", [50.0, float("nan")])
def test_rivals_that_do_other_work_are_found_out(loss: float) -> None:
    check_losses({"a": 43.7, "b": 44.0})
    with pytest.raises(UserError, match="do not do the same work"):
        check_losses({"a": 43.7, "b": loss, "c": 43.9})


def test_only_attention_costs_more_by_the_token_in_longer_rows() -> None:
    config = toy_config("mask_probability=0.12")

    lengths = [c for what, _, c in scaling.scaling_points(config) if what == "length"]
    assert [c.max_length for c in lengths] == [64, 128, 256, 512]
    assert [c.batch_size for c in lengths] == [2, 1, 1, 1]  # 128 tokens, or one row
    flop = [scaling.split_flop(c) for c in lengths]
    attention = [each["attention"] / c.max_length for each, c in zip(flop, lengths, strict=True)]
    assert attention == pytest.approx([attention[0]] * 4)
    rest = [each["rest"] for each in flop]
    assert rest == pytest.approx([rest[0]] * 4)  # 0.125 of the tokens have a slot


def test_the_floor_multiplies_all_products(monkeypatch: pytest.MonkeyPatch) -> None:
    products = step_products(toy_config("mask_probability=0.16"))
    shapes = []

    def matmul(left: Any, right: Any, out: Any) -> None:
        shapes.append((*left.shape, right.shape[-1]))
        assert out.shape == (*left.shape[:-1], right.shape[-1])

    step = prepare_floor(products)
    monkeypatch.setattr(np, "matmul", matmul)
    step(None)
    assert 2 * sum(int(np.prod(shape)) for shape in shapes) == sum(p.flop for p in products)


def test_batches_are_packed_rows_and_always_the_same() -> None:
    config = toy_config()
    first, again = (list(make_batches(config, 3)) for _ in range(2))
    for batch, twin in zip(first, again, strict=True):
        assert batch.input_ids.shape == (4, 32)
        assert (batch.input_ids[:, 0] == SPECIAL_TOKENS.cls).all()
        for ours, theirs in zip(batch, twin, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (first[0].input_ids != first[1].input_ids).any()


def test_data_work_names_its_parts() -> None:
    figures = prepare_data_work(toy_config())(None)
    assert list(figures) == DATA_PARTS
    assert min(figures.values()) > 0


def test_rivals_take_turns_in_processes_of_their_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "rival.py"
    module.write_text(
        "import os\n"
        "def prepare(offset):\n"
        "    print('noise')\n"
        "    threads = int(os.environ['NUMBA_NUM_THREADS'])\n"
        "    spin = float(os.environ.get('GOMP_SPINCOUNT', -1))\n"
        "    figures = {'pid': os.getpid(), 'threads': threads, 'spin': spin}\n"
        "    return lambda task: {**figures, 'sum': task + offset}\n"
    )
    rounds: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.setenv("GOMP_SPINCOUNT", "5000")  # as this project's commands do for themselves
        patch.setattr("benchmarks.turns.FROM_OUTSIDE", {"PATH", "PYTHONPATH"})
        turns = take_turns(
            {
                "a": Program("rival", "prepare", {"offset": 1}, is_ours=False),
                "b": Program("rival", "prepare", {"offset": 2}),
            },
            [{"a": 10, "b": 20}, {"a": 30, "b": 40}],
            threads=1,
            on_round=lambda taken: rounds.append(len(taken)),
        )
    assert [turn.figures["sum"] for turn in turns["a"]] == [11, 31]
    assert [turn.figures["sum"] for turn in turns["b"]] == [22, 42]
    assert rounds == [2, 2]
    assert capfd.readouterr().out == ""  # what a rival prints would spoil the last line
    pids = {turn.figures["pid"] for taken in turns.values() for turn in taken}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert {turn.figures["threads"] for taken in turns.values() for turn in taken} == {1}
    assert {turn.figures["spin"] for turn in turns["a"]} == {-1}
    assert {turn.figures["spin"] for turn in turns["b"]} == {float(SPIN_TURNS)}


def test_the_failure_of_a_rival_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "import os\n"
        "def fail():\n    raise RuntimeError('no luck\\nat all')\n"
        "def die():\n    os._exit(7)\n"
    )

    def ignore(_: Any) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        patch.setattr("benchmarks.turns.FROM_OUTSIDE", set(os.environ))
        with pytest.raises(UserError, match=r"^it: RuntimeError: no luck$"):
            take_turns({"it": Program("failing", "fail", {})}, [], 1, ignore)
        with pytest.raises(UserError, match=r"^it: its process ended with exit code 7$"):
            take_turns({"it": Program("failing", "die", {})}, [], 1, ignore)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rivals", "tensorflow"], "--rivals tensorflow: none of cpu-float32"),
        (["--rivals", "reference-float32", "reference-float32"], "given twice"),
        (["--repeats", "0"], "--repeats 0: at least 1"),
        (["--rivals", "all", "cpu-float32"], "--rivals all: none of cpu-float32"),
        (["--set", "accumulate=2"], "accumulate = 2: only whole batches"),
        (["--set", "hiden_size=2"], "unknown key 'hiden_size'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_step.main([*TOY, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_gpu_that_is_not_there_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("electra_ref.backends.why_no_gpu", lambda: "none here")
    assert train_step.main(["--rivals", "gpu-float32"]) == 2
    error = "benchmarks.train_step: error: --rivals gpu-float32: --device gpu: none here; "
    assert capsys.readouterr().err.startswith(error)
    assert all(rival.name != "gpu-float32" for rival in rivals_of(None))


def test_float32_does_not_pass_for_bfloat16(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("electra_ref.backends.cpu.bfloat16.is_compiled", lambda: False)
    assert train_step.main(["--rivals", "cpu-bfloat16"]) == 2
    assert "--rivals cpu-bfloat16: this processor has no AVX512_BF16" in capsys.readouterr().err
    assert all(rival.name != "cpu-bfloat16" for rival in rivals_of(None))


def test_help_names_the_rivals() -> None:
    command = [sys.executable, "-m", "benchmarks.train_step", "--help"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert "pytorch-bfloat16-compiled" in done.stdout.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("command", [tokenizer, vocabulary, masking_and_sampling, large_corpus])
def test_no_repeats_are_one_line(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--repeats", "0"]) == 2
    assert capsys.readouterr().err.endswith("error: --repeats 0: at least 1\n")


@pytest.mark.parametrize("command", [tokenizer, vocabulary])
def test_a_text_that_cannot_be_read_is_one_line(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.txt"
    for message in ("No such file or directory", "is no UTF-8"):
        assert command.main(["--corpus", str(path)]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert str(path) in line
        assert message in line
        path.write_bytes(b"\xff\xfe\x00")


def test_spread_is_least_middle_and_greatest() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == {"min": 1.0, "median": 2.5, "max": 10.0}


@pytest.mark.oracle
def test_pytorch_trains_the_same_model() -> None:
    from benchmarks.pytorch_electra import JointElectra, prepare_pytorch  # noqa: PLC0415

    config = toy_config("learning_rate=3e-3", "warmup_steps=0")
    ours = sum(
        int(np.prod(spec.shape))
        for spec in parameter_specs(model_of(config, config, SPECIAL_TOKENS))
    )
    assert sum(p.numel() for p in JointElectra(config).parameters()) == ours
    slots = masked_slots(config.max_length, config.mask_probability)
    step = prepare_pytorch(config, slots, SPECIAL_TOKENS, "float32", False, threads=1)
    (batch,) = make_batches(config, 1)
    losses = [step(batch)["loss"] for _ in range(20)]
    assert losses[0] == pytest.approx(np.log(64) + 50 * np.log(2), rel=0.02)
    assert losses[-1] < losses[0] - 3


@pytest.mark.oracle
def test_pytorch_samples_from_the_softmax() -> None:
    import torch  # noqa: PLC0415

    from benchmarks.pytorch_electra import sample  # noqa: PLC0415

    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(100, 400, 4)
    drawn = sample(logits, temperature=2.0)
    assert drawn.shape == (100, 400)
    shares = np.bincount(drawn.flatten().numpy(), minlength=4) / drawn.numel()
    expected = torch.softmax(logits[0, 0] / 2.0, dim=0).numpy()
    # six standard deviations of a share of 40,000
    np.testing.assert_allclose(shares, expected, atol=6 * np.sqrt(0.25 / 40_000))
