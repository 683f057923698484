"""Warnings of a run that learns nothing: on histories of real runs, on real small runs, by hand.

The histories are those of two runs with ``evaluate_every=100``. HEALTHY is ``tiny`` with seed 0.
COLLAPSED, CURED and COOL are the runs that ``collapse`` describes: a discriminator that never left
one answer, one with the settings that the warning proposes, and ``laptop`` at a low temperature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.config.training import TrainingConfig
from electra_ref.training.loop import Trainer
from electra_ref.training.pretraining.collapse import (
    CHECKS,
    LIKE_TINY,
    advice,
    first_shown,
    new_warnings,
)
from electra_ref.training.pretraining.run import begin, resume
from electra_ref.training.pretraining.source import Source
from electra_ref.training.pretraining.task import PretrainingTask
from electra_ref.training.progress import Progress
from electra_ref.training.records import read_records
from electra_ref.training.stop_signals import StopSignals
from electra_ref.training.task import Evaluation
from tests.small_runs import listening, said_to, small_config, write_corpus

FIGURES = (
    *("step", "loss", "mlm_loss", "rtd_loss", "rtd_auc", "replaced_share"),
    *("distinct_samples", "distinct_originals", "hidden_cosine"),
)
HEALTHY = [
    (100, 24.05, 6.120, 0.3585, 0.650, 0.1252, 1299, 983, 0.925),
    (200, 23.58, 5.899, 0.3537, 0.662, 0.1237, 1313, 983, 0.890),
    (300, 23.15, 5.757, 0.3479, 0.673, 0.1225, 1325, 983, 0.819),
    (400, 22.97, 5.678, 0.3458, 0.676, 0.1220, 1331, 983, 0.834),
    (500, 22.77, 5.639, 0.3427, 0.685, 0.1214, 1325, 983, 0.801),
    (600, 22.68, 5.617, 0.3413, 0.688, 0.1211, 1322, 983, 0.789),
    (700, 22.45, 5.594, 0.3371, 0.700, 0.1208, 1327, 983, 0.766),
    (800, 22.39, 5.573, 0.3364, 0.704, 0.1205, 1316, 983, 0.753),
    (900, 22.37, 5.567, 0.3360, 0.701, 0.1202, 1291, 983, 0.754),
    (1000, 22.15, 5.562, 0.3317, 0.715, 0.1201, 1303, 983, 0.750),
    (1100, 22.07, 5.555, 0.3303, 0.721, 0.1201, 1339, 983, 0.751),
    (1200, 21.87, 5.549, 0.3264, 0.730, 0.1201, 1318, 983, 0.745),
    (1300, 21.86, 5.548, 0.3261, 0.730, 0.1201, 1297, 983, 0.735),
    (1400, 21.81, 5.543, 0.3254, 0.732, 0.1200, 1323, 983, 0.736),
    (1500, 21.77, 5.543, 0.3245, 0.732, 0.1198, 1302, 983, 0.730),
]
COLLAPSED = [
    (100, 26.88, 6.607, 0.4055, 0.622, 0.1475, 2181, 1444, 0.830),
    (200, 26.84, 6.304, 0.4108, 0.507, 0.1450, 1464, 1444, 0.958),
    (300, 26.19, 6.064, 0.4026, 0.546, 0.1406, 1560, 1444, 0.958),
    (400, 25.83, 5.970, 0.3972, 0.556, 0.1381, 1569, 1444, 0.940),
    (500, 25.59, 5.875, 0.3942, 0.548, 0.1364, 1520, 1444, 0.945),
    (600, 25.49, 5.834, 0.3932, 0.532, 0.1354, 1372, 1444, 0.950),
    (700, 25.36, 5.797, 0.3913, 0.559, 0.1348, 1542, 1444, 0.949),
    (800, 25.30, 5.769, 0.3905, 0.549, 0.1341, 1465, 1444, 0.949),
    (900, 25.26, 5.746, 0.3903, 0.530, 0.1337, 1414, 1444, 0.934),
    (1000, 25.12, 5.728, 0.3879, 0.561, 0.1333, 1498, 1444, 0.933),
    (1100, 25.17, 5.720, 0.3889, 0.527, 0.1330, 1399, 1444, 0.946),
    (1200, 25.10, 5.705, 0.3878, 0.532, 0.1326, 1375, 1444, 0.942),
    (1300, 25.07, 5.695, 0.3876, 0.535, 0.1324, 1405, 1444, 0.936),
    (1400, 25.05, 5.691, 0.3871, 0.530, 0.1323, 1395, 1444, 0.931),
    (1500, 25.02, 5.678, 0.3868, 0.545, 0.1323, 1440, 1444, 0.945),
    (1600, 25.03, 5.676, 0.3872, 0.533, 0.1324, 1405, 1444, 0.945),
    (1700, 25.01, 5.670, 0.3868, 0.542, 0.1324, 1448, 1444, 0.931),
    (1800, 24.99, 5.666, 0.3865, 0.537, 0.1322, 1388, 1444, 0.934),
    (1900, 25.00, 5.664, 0.3868, 0.538, 0.1323, 1423, 1444, 0.936),
    (2000, 25.02, 5.663, 0.3871, 0.538, 0.1323, 1428, 1444, 0.932),
]
CURED = [
    (100, 26.34, 6.552, 0.3958, 0.680, 0.1478, 2434, 1444, 0.927),
    (200, 26.13, 6.449, 0.3937, 0.678, 0.1476, 2244, 1444, 0.918),
    (300, 25.97, 6.311, 0.3931, 0.676, 0.1472, 2237, 1444, 0.955),
    (400, 25.54, 6.221, 0.3865, 0.692, 0.1463, 2238, 1444, 0.910),
    (500, 25.37, 6.124, 0.3850, 0.694, 0.1456, 2277, 1444, 0.901),
    (600, 25.38, 6.082, 0.3859, 0.691, 0.1452, 2265, 1444, 0.902),
    (700, 25.22, 6.047, 0.3835, 0.697, 0.1450, 2254, 1444, 0.882),
]
COOL = [  # evaluated every 1,000 steps
    (1000, 34.61, 5.993, 0.5724, 0.558, 0.2722, 3118, 2964, 0.881),
    (2000, 34.31, 5.902, 0.5681, 0.553, 0.2676, 3046, 2964, 0.890),
    (3000, 34.19, 5.878, 0.5662, 0.555, 0.2668, 3054, 2964, 0.879),
]
TINY = resolve_config(preset="tiny")
LAPTOP = resolve_config(
    preset="laptop", settings=["temperature=1", "steps=3000", "warmup_steps=150"]
)
NARROW = resolve_config(preset="small", settings=["steps=2000", "warmup_steps=200"])

pytestmark = pytest.mark.usefixtures("quick")


def records_of(rows: Sequence[tuple[float, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(FIGURES, row, strict=True)) for row in rows]


def said(history: Sequence[dict[str, Any]], config: TrainingConfig) -> dict[str, int]:
    """Return which checks speak in the course of ``history``, and at which step."""
    assert isinstance(config, PretrainingConfig)
    steps = {}
    for check in CHECKS:
        if length := first_shown(check, history, config):
            steps[check.name] = history[length - 1]["step"]
    lines = [line for n in range(len(history) + 1) for line in new_warnings(history[:n], config)]
    assert sorted(line.split(": ")[1] for line in lines) == sorted(
        f"step {step:,}" for step in steps.values()
    )
    return steps


def steady(count: int = 12, every: int = 100, **changes: Any) -> list[dict[str, Any]]:
    """Return a history of a run of 2,000 steps in which all is well, but for ``changes``."""
    return [
        {
            "step": every * (n + 1), "loss": 25.0 - n, "mlm_loss": 6.0 - 0.1 * n,
            "rtd_loss": 0.30 - 0.01 * n, "rtd_auc": 0.8, "replaced_share": 0.12,
            "distinct_samples": 900, "distinct_originals": 1000, "hidden_cosine": 0.5, **changes,
        }
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("every", range(1, 6))
def test_a_healthy_run_is_not_warned(every: int) -> None:
    assert said(records_of(HEALTHY[every - 1 :: every]), TINY) == {}


def test_electra_15_is_judged_where_its_loss_is() -> None:
    """Nine masked tokens of ten are replaced: one answer there has a loss of 0.325, not of 0.37."""
    config = dataclasses.replace(NARROW, objective="electra-15")
    figures: dict[str, Any] = {"sampled_accuracy": 0.1, "rtd_auc": 0.55, "distinct_samples": 900}
    bad = steady(**figures, rtd_masked_auc=0.55, rtd_loss=0.325)
    assert list(said(bad, config)) == ["constant discriminator"]
    assert said(steady(**figures, rtd_masked_auc=0.9, rtd_loss=0.2), config) == {}
    assert said(steady(**figures, rtd_masked_auc=0.55, rtd_loss=0.2), config) == {}


def test_the_settings_that_are_proposed_are_not_warned_of() -> None:
    assert said(records_of(CURED), NARROW) == {}


def test_a_collapse_is_told_at_a_third_of_the_run() -> None:
    assert said(records_of(COLLAPSED), NARROW) == {
        "constant discriminator": 700,
        "hidden states alike": 700,
    }


def test_samples_that_are_too_good_for_a_discriminator_are_told() -> None:
    assert said(records_of(COOL), LAPTOP) == {"constant discriminator": 2000}
    (line,) = new_warnings(records_of(COOL[:2]), LAPTOP)
    assert line.endswith("begin again with --set temperature=1.3 (now 1)")


def test_a_message_names_figures_and_what_to_change() -> None:
    constant, alike = new_warnings(records_of(COLLAPSED[:7]), NARROW)
    cure = (
        "begin again with --set generator_hidden_size=0.0625 (now 0.25), --set temperature=1.3 "
        "(now 1), --set initializer_range=0.08 (now 0.02), --set adam_epsilon=1e-08 (now 1e-06)"
    )
    for part in ("step 700:", "AUC 0.56", cure):
        assert part in constant
    for part in ("step 700:", "cosine 0.949", cure):
        assert part in alike


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sharing": "all", "generator_hidden_size": 1.0}, "--set temperature=1.3 (now 1)"),
        ({"uniform_generator": True}, "--set mask_probability=0.15 (now 0.1)"),
        ({"temperature_steps": 9, "temperature_end": 0.5}, "--set temperature_end=1.3 (now 0.5)"),
        (
            {"temperature": 1.3, "temperature_steps": 9, "temperature_end": 0.5},
            "no temperature_steps (the temperature is now 0.5)",
        ),
        ({"adversarial": "reinforce"}, "begin again with adversarial='none'"),
    ],
)
def test_what_is_proposed_can_be_set_and_does_something(
    changes: dict[str, Any], expected: str
) -> None:
    config = dataclasses.replace(NARROW, mask_probability=0.1, **changes)
    remedies = {"generator_hidden_size": 0.0625, "temperature": 1.3, "mask_probability": 0.15}
    said = advice(remedies, config, step=700)
    assert expected in said
    assert ("generator_hidden_size" in said) == ("temperature_steps" in changes)
    assert advice(LIKE_TINY, TINY, step=700) == "more text or steps may help"


def test_what_a_model_decides_is_not_proposed() -> None:
    """And is not in the warnings of a run that began with one."""
    said = advice(LIKE_TINY, NARROW, step=700, of_model=True)
    assert (
        said
        == "begin again with --set temperature=1.3 (now 1), --set adam_epsilon=1e-08 (now 1e-06)"
    )
    for line in new_warnings(records_of(COLLAPSED[:7]), NARROW, of_model=True):
        assert line.endswith(said)


@pytest.mark.parametrize(
    ("key", "better", "worse"),
    [
        ("generator_hidden_size", 0.05, 0.07), ("adam_epsilon", 1e-9, 1e-7),
        ("temperature", 1.4, 1.2), ("initializer_range", 0.09, 0.07),
        ("mask_probability", 0.3, 0.1),
    ],
)  # fmt: skip
def test_a_remedy_is_proposed_only_on_its_way(key: str, better: float, worse: float) -> None:
    """A run that has more of it already is not led back."""
    (value,) = {c.remedies[key] for c in CHECKS if c.remedies is not None and key in c.remedies}
    for now, words in ((better, "more text or steps may help"), (worse, f"--set {key}={value:g} ")):
        config = dataclasses.replace(NARROW, **{key: now})  # type: ignore[arg-type]
        assert words in advice({key: value}, config, step=700)


def test_a_discriminator_without_a_loss_is_not_judged() -> None:
    config = dataclasses.replace(NARROW, discriminator_weight=0.0)
    assert said(records_of(COLLAPSED), config) == {}


def test_half_of_a_pair_cannot_be_replaced() -> None:
    config = dataclasses.replace(NARROW, discriminator_input="paired")
    assert said(steady(replaced_share=0.015), config) == {}
    assert list(said(steady(replaced_share=0.009), config)) == ["few replaced"]


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        # at a share of 0.12, one answer for all tokens has a loss of 0.36692
        ("constant discriminator", {"rtd_loss": 0.356, "rtd_auc": 0.59}, {"rtd_loss": 0.3558}),
        ("constant discriminator", {"rtd_loss": 0.356, "rtd_auc": 0.59}, {"rtd_auc": 0.61}),
        ("hidden states alike", {"rtd_loss": 0.356, "hidden_cosine": 0.93}, {"rtd_loss": 0.3558}),
        ("hidden states alike", {"rtd_loss": 0.37, "hidden_cosine": 0.93}, {"hidden_cosine": 0.91}),
        ("few tokens", {"distinct_samples": 249}, {"distinct_samples": 250}),
        ("few replaced", {"replaced_share": 0.0199}, {"replaced_share": 0.02}),
    ],
)  # fmt: skip
def test_each_threshold(name: str, wrong: dict[str, Any], right: dict[str, Any]) -> None:
    """All records from step 500 on, over a tenth of the steps, must show it."""
    assert said(steady(**wrong), NARROW) == {name: 700}
    assert said(steady(**{**wrong, **right}), NARROW) == {}
    for n in (4, 5, 6):  # steps 500, 600 and 700
        history = steady(**wrong)
        history[n].update(right)
        assert said(history, NARROW) == {name: 100 * (n + 1) + 300}
    for figure in wrong:
        for unknown in ({figure: None}, {}):
            history = [{k: v for k, v in r.items() if k != figure} for r in steady(**wrong)]
            assert said([{**record, **unknown} for record in history], NARROW) == {}


def test_the_warm_up_is_no_sign() -> None:
    wrong = {"distinct_samples": 1}
    assert said(steady(**wrong), dataclasses.replace(NARROW, warmup_steps=600)) == {
        "few tokens": 700  # warm-up ends for a warning after a quarter of the run
    }
    config = dataclasses.replace(NARROW, steps=10_000, warmup_steps=600)
    assert said(steady(30, **wrong), config) == {"few tokens": 1600}
    config = dataclasses.replace(NARROW, steps=1_000_000, warmup_steps=10_000)
    assert said(steady(99, **wrong), config) == {}
    assert said(steady(120, **wrong), config) == {"few tokens": 11_000}
    assert said(steady(12, every=10_000, **wrong), config) == {"few tokens": 20_000}


def test_one_label_is_no_detection() -> None:
    for share in (0.0, 1.0):
        history = steady(replaced_share=share, rtd_loss=0.7, rtd_auc=0.5, hidden_cosine=1.0)
        assert set(said(history, NARROW)) <= {"few replaced"}


def test_a_loss_that_stands_still() -> None:
    """Six evaluations over a fifth of the steps, at a rate of at least a fifth of the peak."""
    still: dict[str, Any] = {"loss": 25.0, "mlm_loss": 6.0, "rtd_loss": 0.3}
    name = "loss stands still"
    assert said(steady(**still), NARROW) == {name: 1000}
    assert said(steady(20, every=50, **still), NARROW) == {name: 900}
    assert said(steady(9, every=170, **still), NARROW) == {name: 1360}  # 510 is the first
    assert said(steady(9, every=205, **still), NARROW) == {}  # the rate is too low by then
    slower = dataclasses.replace(NARROW, lr_decay_power=0.5)
    assert said(steady(9, every=205, **still), slower) == {name: 1640}
    for loss, value in still.items():
        history = steady(**still)
        history[9][loss] = 0.997 * value  # at step 1000
        assert said(history, NARROW) == {}
        history[9][loss] = 0.999 * value
        assert said(history, NARROW) == {name: 1000}
        history = steady(**still)
        for record in history:
            record[loss] = None  # there is no such loss
        assert said(history, NARROW) == {name: 1000}
    assert said(steady(loss=None, mlm_loss=None, rtd_loss=None), NARROW) == {}


def test_no_record_and_records_without_figures() -> None:
    assert new_warnings([], TINY) == []
    assert said([{"step": 100 * n} for n in range(1, 15)], TINY) == {}


def begin_at(
    step: int, folder: Path, progress: Progress, text: str = "", **changes: Any
) -> Trainer:
    """Begin a small run on ``text`` that takes itself to be at ``step``, where warnings begin."""
    corpus = write_corpus(folder / "corpus.txt")
    if text:
        corpus.write_text(text)
    settings = {"steps": 640, "evaluate_every": 20, "log_every": 100, "accumulate": 1, **changes}
    source = Source([str(corpus)], [])
    trainer = begin(folder / "run", small_config(**settings), source, progress, StopSignals())
    trainer.state.step = step
    return trainer


def warned(progress: Progress) -> list[str]:
    return [line for line in said_to(progress) if line.startswith("warning: step")]


def test_a_history_is_told_once_also_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collapse, an evaluation every 100 steps, stopped after each of them."""
    figures = iter(records_of(COLLAPSED))
    monkeypatch.setattr(
        PretrainingTask, "evaluate", lambda *_: Evaluation(next(figures), [], "seen")
    )
    before = len(COLLAPSED) - 3
    progress = listening()
    changes: dict[str, Any] = {"steps": 2000, "warmup_steps": 200, "evaluate_every": 100}
    with (trainer := begin_at(0, tmp_path, progress, **changes)).run:
        for row in COLLAPSED[:before]:
            trainer.state.step = int(row[0]) - 1
            trainer.train(StopSignals(), int(row[0]))
    expected = new_warnings(records_of(COLLAPSED[:7]), small_config(**changes))
    assert warned(progress) == expected
    assert len(expected) == 2
    for row in COLLAPSED[before:]:
        resumed = listening()
        with (trainer := resume(tmp_path / "run", [], None, resumed, StopSignals())).run:
            trainer.state.step = int(row[0]) - 1
            trainer.train(StopSignals(), int(row[0]))
        assert warned(resumed) == []
    records = [r for r in read_records(tmp_path / "run" / "metrics.jsonl") if "rtd_auc" in r]
    assert [record["rtd_auc"] for record in records] == [row[4] for row in COLLAPSED]


ONE_WORD = "a a a a a a a a a a\n" * 4 + "\n"


@pytest.mark.parametrize(
    ("name", "last_step", "text", "changes"),
    [
        ("few tokens", 580, "", {"temperature": 0.01}),
        ("few replaced", 580, 60 * ONE_WORD, {"lr_decay_power": 0.0}),
        ("constant discriminator", 580, "", {"learning_rate": 0.1, "lr_decay_power": 0.0}),
        ("hidden states alike", 580, "", {"learning_rate": 0.1, "lr_decay_power": 0.0}),
        ("loss stands still", 640, "", {"learning_rate": 1e-12, "lr_decay_power": 0.0}),
    ],
)
def test_a_run_that_goes_wrong_says_so(
    name: str, last_step: int, text: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    progress = listening()
    with (trainer := begin_at(479, tmp_path, progress, text, **changes)).run:
        trainer.train(StopSignals(), last_step)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    history = [record for record in records if record["split"] == "held_out"]
    assert said(history, trainer.config)[name] == last_step
    (check,) = (check for check in CHECKS if check.name == name)
    beginning = check.message.partition("{")[0].partition("(")[0]
    assert sum(f"step {last_step}: {beginning}" in line for line in warned(progress)) == 1


def test_a_run_that_goes_well_says_nothing(tmp_path: Path) -> None:
    """Rows of letters in their order: a letter out of its place is soon seen."""
    letters = "abcdefghijklmnopqrstuvw"
    text = "".join(2 * f"{' '.join(letters[n : n + 4])}\n" + "\n" for n in 5 * [*range(20)])
    progress = listening()
    changes: dict[str, Any] = {"num_hidden_layers": 1, "evaluation_batches": 8}
    changes.update(learning_rate=0.002, lr_decay_power=0.0)
    with (trainer := begin_at(459, tmp_path, progress, text, **changes)).run:
        trainer.train(StopSignals(), 580)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if r["split"] == "held_out"] == [*range(460, 600, 20)]
    assert warned(progress) == []
