"""The report of a run: what is read and thinned, what the page says, and that it obeys nobody."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.model.objectives.table import objective_of
from electra_ref.training.pretraining.products import run_flop, step_flop
from electra_ref.training.report.curves import (
    MOST_POINTS,
    PARTS,
    Columns,
    Curve,
    last_defined,
    thinned,
)
from electra_ref.training.report.markup import Markup, element, escaped
from electra_ref.training.report.page import page_of
from electra_ref.training.report.panels import description, panels_of
from electra_ref.training.report.reading import (
    HELD_OUT as HELD_OUT_SPLIT,
)
from electra_ref.training.report.reading import (
    MOST_JUDGED,
    Change,
    Run,
    names_of,
    read_run,
    read_runs,
)
from electra_ref.training.report.reading import (
    TRAINING as TRAINING_SPLIT,
)
from electra_ref.training.report.sizes import flop_counts, format_flop, parameter_counts
from electra_ref.training.report.styles import style_of
from electra_ref.training.report.tables import figure_text, setting_text
from electra_ref.training.report.tokens import sample_view
from tests.report_runs import (
    HELD_OUT,
    HOSTILE,
    SAMPLE,
    TRAINING,
    VOCABULARY,
    Page,
    hostile_sample,
    make_run,
    plain_drawing,
)
from tests.small_runs import small_config


def read(path: Path) -> Run:
    return read_run(path, path.name)


def page_from(*paths: Path) -> Page:
    return Page(page_of(read_runs(paths), plain_drawing))


def curve_of(*values: float) -> Curve:
    return Curve(np.arange(1.0, len(values) + 1), np.array(values))


# What is read


def test_a_run_is_read_as_its_files_tell(tmp_path: Path) -> None:
    settings = {"step": 2, "split": "settings", "changed": {"steps": [10, 20]}}
    earlier = {**SAMPLE, "step": 1}
    run = read(
        make_run(
            tmp_path / "a", [*TRAINING, HELD_OUT, settings], [earlier, SAMPLE, SAMPLE, earlier]
        )
    )
    assert run.name == "a"
    assert run.settings["steps"] == 20
    assert run.config == small_config(vocab_size=len(VOCABULARY))
    assert run.environment["python"] == "3.11"
    assert run.data == ["5,000 tokens", "a <note>"]
    assert run.newest == HELD_OUT
    assert run.changes == [Change(2, "steps", 10, 20)]
    assert run.samples == [SAMPLE, SAMPLE]
    assert (run.last_step, run.warnings, run.notes) == (2, [], [])
    losses = run.curves[TRAINING_SPLIT].curve("loss")
    assert (losses.steps.tolist(), losses.values.tolist()) == ([1.0, 2.0], [30.0, 29.0])
    assert np.isnan(run.curves[TRAINING_SPLIT].curve("tokens_per_second").values).tolist() == [
        True,
        False,
    ]


def test_a_run_that_goes_on_may_be_read(tmp_path: Path) -> None:
    """The last line of each file is half-written."""
    path = make_run(tmp_path / "a")
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(path / name, "a", encoding="utf-8") as file:
            file.write('{"step": 3, "split": "trai')
    run = read(path)
    assert (run.last_step, run.notes) == (2, [])
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(b'ning", "loss": 27.0}\n')
    assert read(path).last_step == 3


def test_what_is_not_there_yet_is_said(tmp_path: Path) -> None:
    assert read(make_run(tmp_path / "a", [], [])).notes == ["nothing is logged yet"]
    assert read(make_run(tmp_path / "b", TRAINING, [])).notes == [
        "there was no evaluation on held-out rows yet"
    ]
    for name in ("metrics.jsonl", "samples.jsonl", "vocab.txt", "data.json"):
        (tmp_path / "a" / name).unlink()
    run = read(tmp_path / "a")
    assert run.notes == [
        "there is no vocabulary yet: the data are being prepared",
        "nothing is logged yet",
    ]
    page = page_from(tmp_path / "a").text
    assert "No step is logged yet, so there is nothing to draw." in page
    assert "a has no samples yet." in page
    assert "No evaluation on held-out rows is logged yet." in page
    assert "The sizes are known when the data are prepared." in page
    assert "electra, custom, step 0 of 20" in page


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", "{}", '{"step": 1.5, "split": "training"}', '{"step": 3}',
     '{"step": 3, "split": 4}', '{"step": 3, "split": ["training"]}',
     '{"step": 3, "split": "settings"}',
     '{"step": 3, "split": "settings", "changed": {"a": [1]}}',
     '{"step": 3, "split": "settings", "changed": [1]}',
     f'{{"step": 3, "split": "training", "loss": 1{"0" * 400}}}',
     f'{{"step": 1{"0" * 400}, "split": "held_out"}}',
     f'{{"step": 1{"0" * 400}, "split": "settings", "changed": {{"a": [1, 2]}}}}'],
)  # fmt: skip
def test_a_damaged_line_is_left_out_and_counted(line: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    text = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (path / "metrics.jsonl").write_text("\n".join([text[0], line, *text[1:], ""]))
    run = read(path)
    assert run.notes == ["1 damaged line is left out of metrics.jsonl; the first is line 2"]
    assert len(run.curves[TRAINING_SPLIT]) == 2
    (path / "metrics.jsonl").write_text("\n".join([*text, line, line, ""]))
    assert read(path).notes == [
        "2 damaged lines are left out of metrics.jsonl; the first is line 4"
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"original": "text"},
        {"original": [1, 2, 3, 4, 5]},
        {"masked": ["one"]},
        {"replaced": [True]},
        {"replaced": [1] * 5},
        {"probability": [None] * 5},
        {"probability": [10**400] * 5},
        {"probability": None},
        {"original": None},
    ],
)
def test_a_damaged_sample_is_left_out_and_counted(changes: dict[str, Any], tmp_path: Path) -> None:
    run = read(make_run(tmp_path / "a", samples=[SAMPLE, {**SAMPLE, **changes}]))
    assert run.samples == [SAMPLE]
    assert run.notes == ["1 damaged line is left out of samples.jsonl; the first is line 2"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "it is damaged"),
        ('{"tokens": 5}', "it is damaged"),
        (json.dumps({"tokens": 5, "notes": [], "unknown_tokens": 10**400}), "it is damaged"),
        (json.dumps({"tokens": 5, "notes": [], "unknown_tokens": 1, "unknown_examined": 0}), "it"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_damaged_facts_of_the_data_are_said(text: str, reason: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "data.json").write_text(text)
    run = read(path)
    assert run.data == []
    assert run.notes[0].startswith(f"data.json cannot be read: {reason}")


def test_what_is_nested_too_deeply_is_not_shown(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    path = make_run(tmp_path / "a")
    changed = {"step": 1, "split": "settings", "changed": {"steps": [nested, 2]}}
    with open(path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(changed) + "\n")
    assert "nested too deeply to show" in page_from(path).text


def test_half_of_a_verdict_is_damage(tmp_path: Path) -> None:
    sample = {key: value for key, value in SAMPLE.items() if key != "probability"}
    assert read(make_run(tmp_path / "a", samples=[sample])).samples == []


def test_numbers_that_json_does_not_have_are_undefined(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", [])
    (path / "metrics.jsonl").write_text(
        '{"step": 1, "split": "training", "loss": NaN, "mlm_loss": Infinity, "rtd_loss": true}\n'
    )
    run = read(path)
    assert run.notes == ["there was no evaluation on held-out rows yet"]
    assert panels_of([run]) == []


def test_only_a_run_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        read_runs([tmp_path])
    path = make_run(tmp_path / "a")
    with pytest.raises(UserError, match="named twice"):
        read_runs([path, tmp_path / "." / "a"])
    (path / "config.toml").unlink()
    with pytest.raises(UserError, match="stopped before it began"):
        read_runs([path])


def test_settings_of_another_version_are_shown_and_noted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "config.toml").write_text('colour = "red"\n')
    run = read(path)
    assert (run.settings, run.config) == ({"colour": "red"}, None)
    assert run.notes[0].startswith("this version cannot read the settings: ")
    page = page_from(path).text
    assert "colour red" in page
    assert "step 2" in page
    (path / "config.toml").write_bytes(b"\xff=")
    assert read(path).notes[0].startswith("config.toml cannot be read: ")


def test_a_vocabulary_that_was_changed_is_noted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "vocab.txt").write_text("[PAD]\n")
    run = read(path)
    assert run.config == small_config()
    assert run.notes[0].startswith("the vocabulary cannot be read: ")


@pytest.mark.parametrize("text", ["", "[]", '{"tokens": "many"}', '{"tokens": 1, "notes": 2}'])
def test_facts_of_the_data_that_cannot_be_read_are_left_out(text: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "data.json").write_text(text)
    assert read(path).data == []


def test_warnings_are_those_that_the_run_gave(tmp_path: Path) -> None:
    """Few different samples at two evaluations after step 500; those of the first stage not."""
    few = {"distinct_samples": 1, "distinct_originals": 100, "learning_rate": 1e-3}
    records = [{"step": step, "split": "held_out", **few} for step in (800, 700, 600, 900)]
    run = read(make_run(tmp_path / "a", records, steps=1000))
    (warning,) = run.warnings
    assert warning.startswith("step 700: the generator answers few different tokens (1, where 100")
    assert f"Warning: {warning}" in page_from(tmp_path / "a").text
    stages: dict[str, Any] = {
        "two_stage_steps": 700, "sharing": "none", "generator_hidden_size": 1.0,
        "generator_layers": 1.0, "num_attention_heads": 1, "intermediate_size": 32, "steps": 1000,
    }  # fmt: skip
    (warning,) = read(make_run(tmp_path / "b", records, **stages)).warnings
    assert warning.startswith("step 900: ")


def test_evaluations_are_judged_up_to_a_number(tmp_path: Path) -> None:
    records = [{"step": step, "split": "held_out"} for step in range(1, MOST_JUDGED + 2)]
    run = read(make_run(tmp_path / "a", records))
    assert run.notes == [f"warnings are those of the first {MOST_JUDGED:,} evaluations"]
    assert read(make_run(tmp_path / "b", records[1:])).notes == []


def test_evaluations_that_cannot_be_judged_are_noted(tmp_path: Path) -> None:
    records = [
        {"step": s, "split": "held_out", "distinct_samples": "1", "distinct_originals": 1}
        for s in (800, 900)
    ]
    (note,) = read(make_run(tmp_path / "a", records, steps=1000)).notes
    assert note.startswith("the evaluations cannot be judged: ")


def test_names_of_runs_are_the_shortest_ends_that_differ() -> None:
    assert names_of([Path("/x/a")]) == ["a"]
    assert names_of([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert names_of([Path("/x/1/a"), Path("/x/2/a")]) == ["1/a", "2/a"]
    assert names_of([Path("/a"), Path("/b/a")]) == ["a", "b/a"]


# Curves


def test_columns_keep_numbers_by_step() -> None:
    columns = Columns()
    columns.append({"step": 5, "split": "x", "loss": 2.0})
    columns.append({"step": 3, "split": "x", "loss": 1, "new": 4.0, "none": None, "flag": True})
    with pytest.raises(OverflowError):
        columns.append({"step": 9, "loss": 0.0, "new": 10**400})
    assert len(columns) == 2
    assert columns.figures() == ["loss", "new"]
    assert columns.last_step == 5
    assert columns.curve("loss").steps.tolist() == [3.0, 5.0]
    assert columns.curve("loss").values.tolist() == [1.0, 2.0]
    assert np.isnan(columns.curve("new").values).tolist() == [False, True]
    assert np.isnan(columns.curve("unknown").values).all()
    assert Columns().last_step == 0


def test_a_short_curve_is_left_as_it_is() -> None:
    curve = curve_of(*range(MOST_POINTS))
    assert thinned(curve) is curve


def test_a_thinned_curve_keeps_its_peaks_ends_and_gaps() -> None:
    count = 100 * PARTS
    values = np.sin(np.arange(count, dtype=np.float64))
    values[12_345], values[23_456] = 9.0, -9.0
    values[5_000:5_400] = np.nan
    curve = curve_of(*values)
    result = thinned(curve)
    assert len(result.steps) <= MOST_POINTS
    assert (np.diff(result.steps) > 0).all()
    assert {1.0, 12_346.0, 23_457.0, float(count)} <= set(result.steps)
    places = result.steps.astype(int) - 1
    np.testing.assert_array_equal(curve.values[places], result.values)
    assert np.isnan(result.values).sum() == 4
    for part in range(PARTS):  # each part shows its range
        inside = (places >= 100 * part) & (places < 100 * (part + 1))
        whole = values[100 * part : 100 * (part + 1)]
        if not np.isnan(whole).all():
            assert result.values[inside].max() == np.nanmax(whole)
            assert result.values[inside].min() == np.nanmin(whole)


def test_the_last_defined_value_is_found() -> None:
    assert last_defined(curve_of(1.0, 2.0, math.nan)) == (2, 2.0)
    assert last_defined(curve_of(math.nan)) is None


# Figures


def test_a_run_has_the_figures_of_its_records(tmp_path: Path) -> None:
    run = read(make_run(tmp_path / "a"))
    panels = {panel.slug: panel for panel in panels_of([run])}
    assert list(panels) == [
        "loss", "mlm-loss", "rtd-loss", "rtd-auc", "rtd-accuracy", "mlm-accuracy",
        "learning-rate", "gradient-norm", "tokens-per-second",
    ]  # fmt: skip
    accuracy = panels["rtd-accuracy"]
    assert [(each.role, each.curve.values.tolist()) for each in accuracy.series] == [
        ("main", [0.875]),
        ("baseline", [0.875]),  # 1 - replaced_share
    ]
    assert panels["rtd-auc"].level == 0.5
    assert panels["gradient-norm"].scale == "log"
    assert panels["tokens-per-second"].scale == "from zero"
    assert {panel.last_step for panel in panels.values()} == {2}
    assert not any(panel.is_thinned for panel in panels.values())
    assert description(panels["mlm-loss"], [run]) == (
        "MLM loss by step. a, training, one step: 8.5 at step 2; a, held-out rows: 8.25 at step 2."
    )
    assert description(panels["gradient-norm"], [run]) == "Gradient norm by step. a: 3.5 at step 2."


def test_a_run_without_detection_has_no_figures_of_it(tmp_path: Path) -> None:
    training = {"step": 1, "split": "training", "loss": 9.0, "mlm_loss": 9.0, "my_loss": 1.0}
    held_out = {"step": 1, "split": "held_out", "mlm_accuracy": 0.2, "rtd_auc": None}
    run = read(make_run(tmp_path / "a", [training, held_out], [], objective="mlm"))
    panels = panels_of([run])
    assert [panel.slug for panel in panels] == ["loss", "mlm-loss", "other-loss-0", "mlm-accuracy"]
    assert panels[2].title == "my_loss"
    text = page_from(tmp_path / "a").text
    assert "RTD AUC undefined" in text
    assert "RTD accuracy" not in text
    assert "mlm, custom, step 1 of 20" in text


def test_several_runs_are_in_one_figure(tmp_path: Path) -> None:
    change = {"step": 1, "split": "settings", "changed": {"steps": [10, 20], "device": ["a", "b"]}}
    later = {**HELD_OUT, "step": 7, "rtd_auc": 0.8}
    runs = read_runs(
        [make_run(tmp_path / "a"), make_run(tmp_path / "b", [change, *TRAINING, later])]
    )
    (panel,) = [panel for panel in panels_of(runs) if panel.slug == "rtd-auc"]
    assert [each.run for each in panel.series] == [0, 1]
    assert panel.changes == [(1, 1)]
    assert panel.last_step == 7
    page = page_from(tmp_path / "a", tmp_path / "b")
    assert "2 runs" in page.text
    assert "A dashed vertical line: a resumed run has other settings from there on." in page.text
    assert "From step 1 on: device = b, before a." in page.text
    assert {"var(--run-0)", "var(--run-1)", "currentColor"} == set(page.values("stroke"))
    swatches = [given for given in page.named("svg") if given.get("class") == "swatch"]
    lines = page.named("line")
    # the runs at the top and in nine figures; what the lines of six figures stand for
    assert len(lines) == len(swatches) == 2 + 9 * 2 + (2 + 2 + 2 + 1 + 2 + 2)
    assert {line["stroke-dasharray"] for line in lines if line["stroke"] == "var(--run-1)"} == {
        "7.2 2.7"
    }


def test_thinned_figures_say_so(tmp_path: Path) -> None:
    records = [{"step": s, "split": "training", "loss": float(s)} for s in range(MOST_POINTS + 1)]
    assert "Total loss (thinned)" in page_from(make_run(tmp_path / "a", records)).text
    text = page_from(make_run(tmp_path / "b", records[1:])).text
    assert "thinned" not in text


def test_runs_differ_in_colour_dashes_and_shape() -> None:
    styles = [style_of(run, "main") for run in range(8)]
    assert len({style.colour for style in styles}) == 8
    assert len({(style.dashes, style.shape) for style in styles}) == 8
    assert style_of(8, "main").colour == style_of(0, "main").colour
    roles = ("step", "main", "second", "baseline")
    assert len({style_of(0, role)[1:] for role in roles}) == 4
    css = (Path(page_of.__code__.co_filename).with_name("style.css")).read_text(encoding="utf-8")
    assert all(css.count(f"{style.colour[4:-1]}:") == 2 for style in styles)  # light and dark


# Samples


def test_a_sample_says_what_both_networks_did() -> None:
    page = Page(sample_view(SAMPLE))
    signs = [given["class"] for given in page.named("span") if "sign" in (given.get("class") or "")]
    assert signs == ["sign alarm", "sign found", "sign missed"]
    marks = [given["class"] for given in page.named("span") if "mark" in (given.get("class") or "")]
    assert marks == ["mark alarm", "mark found", "mark missed"]
    assert "river masked: [MASK] generated: tree ^ replaced and flagged, 0.90" in page.text
    assert "sings - replaced and missed, 0.20" in page.text
    assert "? false alarm, 0.60" in page.text
    assert page.text.startswith("original masked generated flagged [CLS]")


def test_best_guesses_have_no_verdicts(tmp_path: Path) -> None:
    sample = {key: SAMPLE[key] for key in ("step", "original", "masked")}
    sample["guessed"] = ["[CLS]", "a", "tree", "runs", "[SEP]"]
    page = page_from(make_run(tmp_path / "a", samples=[sample]))
    assert not any("sign" in (given.get("class") or "") for given in page.named("span"))
    assert "original masked guessed [CLS]" in page.text
    assert "river masked: [MASK] guessed: tree" in page.text
    assert "false alarm" not in page.text


# Tables


def test_figures_are_for_people() -> None:
    values: list[Any] = [0.123456, 12345.678, 1e300, 0.0, 3, 12345, None, "x", True, 10**20]
    assert [figure_text(value) for value in values] == [
        "0.1235", "12,346", "1e+300", "0", "3", "12,345", "undefined", "undefined", "undefined",
        "100,000,000,000,000,000,000",
    ]  # fmt: skip
    values = ["word", 0.1, 1e-12, True, None, [], ["a", 1], {}, {"a": 1}]
    assert [setting_text(value) for value in values] == [
        "word", "0.1", "1e-12", "true", "none", "none", "a, 1", "none", '{"a": 1}',
    ]  # fmt: skip


def test_tables_have_a_column_for_each_run_and_mark_differences(tmp_path: Path) -> None:
    other = {"step": 3, "split": "held_out", "loss": 1.0, "my_figure": 5.0}
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", [other], seed=7, steps=30)
    page = page_from(tmp_path / "a", tmp_path / "b")
    text = page.text
    assert "Newest evaluation on held-out rows a b step 2 3 total loss 28 1" in text
    assert "RTD precision undefined -" in text
    assert "RTD accuracy of “all original” 0.875 -" in text
    assert "my_figure - 5" in text
    start = text.index("Settings that differ")
    differing = text[start : text.index("All settings")]
    assert differing.startswith("Settings that differ a b meaning steps ≠ 20 30 optimizer steps")
    assert "seed ≠ 0 7" in differing
    assert "batch_size" not in differing
    assert "batch_size 4 4" in text
    assert "python 3.11 3.11" in text
    assert "packages numpy 2.0 2.0" in text
    assert "electra_ref run" not in text  # the marker of the folder
    make_run(tmp_path / "c")
    assert "All runs have the same settings." in page_from(tmp_path / "a", tmp_path / "c").text
    assert "≠" not in page_from(tmp_path / "a").text
    assert "Settings that differ" not in page_from(tmp_path / "a").text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sharing": "none"},
        {"sharing": "gdes"},
        {"objective": "mlm"},
        {"objective": "all-tokens-mlm"},
        {"sharing": "all", "generator_hidden_size": 1.0, "generator_layers": 1.0},
    ],
)
def test_parameters_are_counted_by_part(changes: dict[str, Any]) -> None:
    config = small_config(vocab_size=60, **changes)
    counts = parameter_counts(config)
    objective = objective_of(config)
    model = objective.model_of(config, config, SpecialTokens(0, 1, 2, 3, 4))
    specs = objective.parameter_specs(model)
    assert sum(counts.values()) == sum(math.prod(spec.shape) for spec in specs)
    # words, positions, segments, layer norm
    assert counts["embeddings"] == 60 * 6 + 20 * 6 + 2 * 6 + 2 * 6
    if changes == {}:
        assert list(counts) == [
            "embeddings", "generator: head", "generator: layers", "discriminator: head",
            "discriminator: layers",
        ]  # fmt: skip
        assert counts["discriminator: head"] == 8 * 8 + 8 + 8 + 1
    if changes == {"sharing": "none"}:
        assert counts["generator: embeddings"] == counts["embeddings"]


def test_flop_of_the_steps_so_far_are_counted(tmp_path: Path) -> None:
    config = small_config(vocab_size=8)
    step = step_flop(config)
    assert flop_counts(config, 7) == {
        "a step": step, "steps so far": 7 * step, "all steps": 20 * step,
    }  # fmt: skip
    assert flop_counts(config, 20)["steps so far"] == run_flop(config)
    text = page_from(make_run(tmp_path / "a")).text
    assert f"a step {format_flop(step)} steps so far {format_flop(2 * step)}" in text
    assert "entries of the vocabulary 8" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999 FLOP"), (1000, "1 kFLOP"), (14_480_000_000, "14.5 GFLOP"),
     (6 * 10**20, "600 EFLOP"), (10**28, "1e+04 YFLOP")],
)  # fmt: skip
def test_flop_are_for_people(count: int, text: str) -> None:
    assert format_flop(count) == text


# The page


def test_a_page_loads_and_runs_nothing_and_reads_well(tmp_path: Path) -> None:
    page = page_from(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
    assert page.named("html") == [{"lang": "en"}]
    policy = [given for given in page.named("meta") if "http-equiv" in given]
    assert policy == [
        {
            "http-equiv": "Content-Security-Policy",
            "content": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
            "form-action 'none'",
        }
    ]
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not any("://" in text or "@import" in text for _, text in page.texts)
    assert not page.values("src")
    assert not [name for _, given in page.elements for name in given if name.startswith("on")]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.named("a")} <= {f"#{name}" for name in ids}
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert [text for tag, text in page.texts if tag == "title"] == ["ELECTRA pre-training: a, b"]
    assert len(page.named("h1")) == 1
    assert len(page.named("caption")) == len(page.named("table")) == 6
    figures = [given for given in page.named("svg") if given.get("aria-hidden") != "true"]
    assert len(figures) == len(page.named("figure")) == 9
    assert all(given["role"] == "img" and given["aria-label"] for given in figures)
    assert all(given["scope"] in ("col", "row") for given in page.named("th"))


def test_the_page_of_a_run_begins_with_its_figures(tmp_path: Path) -> None:
    text = page_from(make_run(tmp_path / "a")).text
    assert (
        "a electra, custom, step 2 of 20 Loss 28 held-out, total MLM accuracy 0.25 most frequent "
        "token 0.0625 RTD AUC 0.75 0.5 is guessing RTD accuracy 0.875 all original 0.875 Curves"
    ) in text
    assert "Data of a 5,000 tokens a <note>" in text


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    first, again = (page_of([read(tmp_path / "a")], plain_drawing) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["<b>a&b", "$x_2$ '\"", "a\u202eb", "a\nb", "\udcff", "\u0301"])
def test_nothing_of_a_run_is_obeyed(name: str, tmp_path: Path) -> None:
    change = {"step": 2, "split": "settings", "changed": {"<u>": ["</p>", "<script>x</script>"]}}
    figures = {"step": 2, "split": "held_out", "<i>figure": 1.0, '"<i>_loss': 2.0}
    path = make_run(tmp_path / name, [*TRAINING, change, figures], [hostile_sample()])
    environment = json.loads((path / "environment.json").read_text())
    environment["<img src=x>"] = {"<a href='//x'>": ["<b>"]}
    (path / "environment.json").write_text(json.dumps(environment))
    raw = page_of(read_runs([path]), plain_drawing)
    raw.encode("utf-8")
    page = Page(raw)
    plain = Page(page_of(read_runs([make_run(tmp_path / "plain")]), plain_drawing))
    known = {tag for tag, _ in plain.elements} | {"line"}
    assert {tag for tag, _ in page.elements} <= known
    assert not page.values("src")
    assert "<i>figure 1" in page.text
    assert "<script>x</script>" in page.text
    assert "<img src=x> <a href='//x'> <b>" in page.text
    slugs = page.values("data-slug")
    assert all(slug and slug.replace("-", "").isalnum() for slug in slugs)
    shown = [text for tag, text in page.texts if tag == "bdi"]
    for token in ("</script>", "<b>bold</b>", "&amp;", "$x^2$", "שלום", "]]>", "-->", "'\""):
        assert shown.count(token) == 3
    for token in ("\\u202eabc", "\u25cc\u0301", "\\x00", "\\ud800", "\\u2066x"):
        assert shown.count(token) == 3
    assert len(shown) == 3 * len(HOSTILE)
    assert not set(raw) & set("\u202e\u2066\x00\u2068\u2069")


def test_an_empty_token_has_a_width() -> None:
    sample = {"original": [""], "masked": [""]}
    assert [text for tag, text in Page(sample_view(sample)).texts if tag == "bdi"] == ["\u00a0"] * 2


def test_markup_is_escaped_once() -> None:
    assert escaped("a<b\x1b") == "a&lt;b\\x1b"
    assert escaped(escaped("<")) == "&lt;"
    assert element("p", "<", Markup("<br>"), class_='a"b', hidden=True, open=False) == (
        '<p class="a&quot;b" hidden>&lt;<br></p>'
    )
    assert element("meta", name="a", http_equiv="b") == '<meta name="a" http-equiv="b">'


def test_splits_are_named_as_in_the_records() -> None:
    assert (TRAINING[0]["split"], HELD_OUT["split"]) == (TRAINING_SPLIT, HELD_OUT_SPLIT)
