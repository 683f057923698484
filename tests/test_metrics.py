"""Every figure of an evaluation, by hand, on two micro-batches small enough to count with a pencil.

What must not count is set so that it would show: padding is labelled and flagged and has hidden
states of its own, unused slots hold labels and samples that are right, stand for a token that is
not masked and have other logits, and the two micro-batches differ in size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.backends import reference
from electra_ref.batch import Batch
from electra_ref.masking import MaskedBatch
from electra_ref.model.discriminator_input import DiscriminatorInput
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import LossTerm
from electra_ref.model.objectives.output import Detections, Output
from electra_ref.sampling import CorruptedBatch
from electra_ref.training.pretraining.detection_figures import calibration_error
from electra_ref.training.pretraining.generator_figures import ROWS, entropy_sum
from electra_ref.training.pretraining.hidden_figures import mean_cosine, unit_sum
from electra_ref.training.pretraining.metrics import measure, metrics_of, summary

WORDS = 9
NOTHING: Array = np.zeros(0)  # in the place of what no figure looks at
X, Y = [3.0, 0.0], [0.0, 0.5]  # hidden states; only their directions count


def output_of(
    *,
    tokens: list[list[int]],
    used: list[list[int]],
    positions: list[list[int]],
    labels: list[list[int]],
    best: list[list[int]],
    sampled: list[list[int]],
    replaced: list[list[int]],
    logits: list[list[float]],
    hidden: list[list[float]],
    mlm_sum: float,
    rtd_sum: float,
) -> Output:
    """Return what the model could have said; all lists are rows."""
    attention_mask, weights = np.array(tokens, bool), np.array(used, bool)
    ids = np.zeros(attention_mask.shape, np.int32)
    batch = Batch(ids, ids, attention_mask)
    masked = MaskedBatch(batch, ids, np.array(positions), np.array(labels), weights)
    corrupted = CorruptedBatch(masked, np.array(sampled), ids, np.array(replaced, bool))
    best_words = np.eye(WORDS)[np.array(best).reshape(-1)]  # the best word has the largest logit
    best_words *= np.where(weights.reshape(-1, 1), 1.0, 0.5)
    guesses = Guesses(NOTHING, best_words, np.array(mlm_sum))
    is_masked = np.zeros(attention_mask.shape, bool)
    rows, slots = np.nonzero(weights)
    is_masked[rows, masked.positions[rows, slots]] = True
    read = DiscriminatorInput(batch, corrupted.replaced, NOTHING, NOTHING, is_masked)
    detections = Detections(read, np.array(hidden), np.array(logits).reshape(-1))
    terms = (
        LossTerm("mlm", np.float64(mlm_sum), int(weights.sum()), 3.0),
        LossTerm("rtd", np.float64(rtd_sum), int(attention_mask.sum()), 20.0),
    )
    return Output(terms, masked, corrupted, guesses, None, detections)


def outputs() -> list[Output]:
    """Five masked positions, eight tokens.

    Logits of replaced tokens: 2, -1, 1 (two flagged); of original ones: -3, 3, -2, 0, -4 (one
    flagged: at exactly 0 nothing is flagged).
    """
    first = output_of(
        tokens=[[1, 1, 1, 0], [1, 1, 0, 0]],
        used=[[1, 1], [1, 0]],
        positions=[[0, 2], [1, 0]],
        labels=[[5, 6], [5, 8]],
        best=[[5, 7], [5, 8]],  # right, wrong, right; the unused slot would be right
        sampled=[[5, 2], [1, 8]],  # right, wrong, wrong; the unused slot would be right
        replaced=[[1, 0, 1, 1], [0, 0, 1, 1]],
        logits=[[2.0, -3.0, -1.0, 9.0], [3.0, -2.0, 9.0, -9.0]],
        hidden=[X, Y, X, X, Y, [-1.0, 0.0], Y, [0.0, 0.0]],  # of tokens: X Y X, Y and less X
        mlm_sum=6.0,
        rtd_sum=2.5,
    )
    second = output_of(
        tokens=[[1, 1, 1, 0]],
        used=[[1, 1]],
        positions=[[0, 1]],
        labels=[[5, 7]],
        best=[[6, 7]],
        sampled=[[5, 7]],
        replaced=[[0, 1, 0, 0]],
        logits=[[0.0, 1.0, -4.0, 9.0]],
        hidden=[Y, X, X, Y],
        mlm_sum=4.0,
        rtd_sum=1.5,
    )
    return [first, second]


def test_every_figure_by_hand() -> None:
    assert metrics_of([measure(reference, output) for output in outputs()]) == {
        "loss": pytest.approx(3 * 2.0 + 20 * 0.5),
        "mlm_loss": pytest.approx(10 / 5),
        "rtd_loss": pytest.approx(4 / 8),
        "mlm_accuracy": pytest.approx(3 / 5),
        "mlm_baseline_accuracy": pytest.approx(3 / 5),  # 5 is masked three times
        "sampled_accuracy": pytest.approx(3 / 5),
        "generator_entropy": pytest.approx(math.log(8 + math.e) - math.e / (8 + math.e)),
        "distinct_samples": 4,  # 1, 2, 5, 7
        "distinct_originals": 3,  # 5, 6, 7
        "rtd_accuracy": pytest.approx(6 / 8),
        "rtd_precision": pytest.approx(2 / 3),
        "rtd_recall": pytest.approx(2 / 3),
        # pairs (replaced, original) in the right order: 2 beats 4 of 5, -1 beats 3, 1 beats 4
        "rtd_auc": pytest.approx(11 / 15),
        # of the masked ones, 2, -1 and 1 are replaced, -2 and 0 original
        "rtd_masked_auc": pytest.approx(5 / 6),
        "rtd_probability_original": pytest.approx(sum(map(sigmoid, [-3, 3, -2, 0, -4])) / 5),
        "rtd_probability_replaced": pytest.approx(sum(map(sigmoid, [2, -1, 1])) / 3),
        # only -3 and -4 are in one bin
        "rtd_calibration_error": pytest.approx(
            (sum(map(sigmoid, [-3, 3, -2, 0, -4])) + sum(map(sigmoid, [-2, 1, -1]))) / 8
        ),
        "replaced_share": pytest.approx(3 / 8),
        # the unit rows sum to 3 X and 3 Y
        "hidden_cosine": pytest.approx((18 - 8) / (8 * 7)),
    }


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def one(**changes: Any) -> dict[str, float | None]:
    """Return the metrics of one row of four tokens, with one masked position."""
    row: dict[str, Any] = {
        "tokens": [[1, 1, 1, 1]], "used": [[1]], "positions": [[0]], "labels": [[5]],
        "best": [[6]], "sampled": [[7]], "replaced": [[1, 0, 0, 0]],
        "logits": [[1.0, -1.0, -1.0, -1.0]], "hidden": [X, X, X, Y],
        "mlm_sum": 1.0, "rtd_sum": 1.0, **changes,
    }  # fmt: skip
    return metrics_of([measure(reference, output) for output in [output_of(**row)]])


def test_figures_that_are_different_from_each_other() -> None:
    """Precision, recall, accuracy and share all have other denominators here."""
    figures = one(replaced=[[1, 1, 1, 0]], logits=[[1.0, -1.0, 2.0, 3.0]], best=[[5]])
    assert figures["rtd_precision"] == pytest.approx(2 / 3)  # of three flagged
    assert figures["rtd_recall"] == pytest.approx(2 / 3)  # of three replaced
    assert figures["rtd_accuracy"] == pytest.approx(2 / 4)
    assert figures["replaced_share"] == pytest.approx(3 / 4)
    assert figures["rtd_auc"] == 0.0
    assert figures["mlm_accuracy"] == 1.0
    assert figures["sampled_accuracy"] == 0.0
    assert one(replaced=[[1, 1, 1, 1]], logits=[[1.0, -1.0, -2.0, -3.0]])["rtd_recall"] == 1 / 4
    assert one(replaced=[[1, 0, 0, 0]], logits=[[1.0, 2.0, 3.0, 4.0]])["rtd_precision"] == 1 / 4


def test_a_figure_that_is_undefined_is_none() -> None:
    """Nothing flagged, nothing replaced, one label only, or logits that are not finite."""
    assert one(logits=[[-1.0] * 4])["rtd_precision"] is None
    assert one(logits=[[-1.0] * 4])["rtd_recall"] == 0.0
    nothing = one(replaced=[[0, 0, 0, 0]])
    assert (nothing["rtd_recall"], nothing["rtd_auc"]) == (None, None)
    assert nothing["rtd_precision"] == 0.0
    everything = one(replaced=[[1, 1, 1, 1]])
    assert (everything["rtd_auc"], everything["replaced_share"]) == (None, 1.0)
    assert nothing["rtd_probability_replaced"] is None
    assert everything["rtd_probability_original"] is None
    assert one()["rtd_masked_auc"] is None  # one position is masked
    for bad in (np.nan, np.inf):
        figures = one(logits=[[1.0, -1.0, bad, -1.0]], used=[[1, 1]], positions=[[0, 1]],
                      labels=[[5, 5]], best=[[5, 5]], sampled=[[5, 5]])  # fmt: skip
        for name in ("auc", "masked_auc", "calibration_error", "probability_original",
                     "probability_replaced"):  # fmt: skip
            assert figures[f"rtd_{name}"] is None
    assert one(hidden=[X, X, X, [0.0, 0.0]])["hidden_cosine"] is None
    assert one(tokens=[[1, 0, 0, 0]])["hidden_cosine"] is None  # there is no pair
    with pytest.raises(ValueError, match="nothing to evaluate"):
        metrics_of([])


def test_nothing_masked_is_no_accuracy() -> None:
    figures = one(used=[[0]])
    assert [figures[f"{name}_accuracy"] for name in ("mlm", "mlm_baseline", "sampled")] == [0.0] * 3
    assert figures["mlm_loss"] == 1.0  # the sum as it is, divided by nothing
    assert (figures["generator_entropy"], figures["rtd_masked_auc"]) == (None, None)
    assert (figures["distinct_samples"], figures["distinct_originals"]) == (0, 0)


def test_the_entropy_of_rows_by_hand() -> None:
    even, quarter = np.zeros((1, 4)), np.log([[0.5, 0.25, 0.125, 0.125]])
    assert entropy_sum(even) == pytest.approx(math.log(4), rel=1e-15)
    assert entropy_sum(quarter) == pytest.approx(1.75 * math.log(2), rel=1e-15)
    assert entropy_sum(quarter + 800.0) == pytest.approx(1.75 * math.log(2), rel=1e-12)
    assert entropy_sum(np.array([[0.0, -1000.0, -1000.0]])) == 0.0
    many = np.concatenate([even] * ROWS + [quarter] * 3)  # more than are taken at a time
    assert entropy_sum(many) == pytest.approx((2 * ROWS + 3 * 1.75) * math.log(2), rel=1e-12)
    assert entropy_sum(many[:0]) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_entropy_of_a_row_that_is_not_finite_is_undefined(bad: float) -> None:
    assert math.isnan(entropy_sum(np.array([[0.0, 1.0], [bad, 1.0]])))


def test_the_calibration_error_by_hand() -> None:
    """Ten bins: 0.1 begins the second one, and 1 is in the last one."""

    def error(probabilities: list[float], *, replaced: list[int]) -> float:
        return calibration_error(np.array(replaced, bool), np.array(probabilities))

    assert error([0.25] * 4, replaced=[1, 0, 0, 0]) == 0.0  # calibrated, if not sharp
    assert error([0.0, 1.0], replaced=[0, 1]) == 0.0
    assert error([0.0, 1.0], replaced=[1, 0]) == 1.0
    assert error([0.05, 0.15], replaced=[1, 0]) == pytest.approx((0.95 + 0.15) / 2)
    assert error([0.1, 0.19], replaced=[1, 0]) == pytest.approx((1 - 0.29) / 2)  # one bin
    assert error([0.92, 1.0], replaced=[1, 0]) == pytest.approx((1.92 - 1) / 2)  # one bin


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0.3, 1.0, (40, 5))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [units[i] @ units[j] for i in range(40) for j in range(40) if i != j]
    cosine = mean_cosine([unit_sum(rows[:13]), unit_sum(rows[13:])])
    assert cosine == pytest.approx(float(np.mean(pairs)), rel=1e-12)
    assert mean_cosine([unit_sum(np.array([X, X, X]))]) == 1.0
    assert mean_cosine([unit_sum(np.array([X])), unit_sum(np.array([Y]))]) == 0.0
    assert mean_cosine([unit_sum(np.array([X, [-1.0, 0.0]]))]) == -1.0
    assert mean_cosine([unit_sum(np.array([X]))]) is None
    assert mean_cosine([unit_sum(np.array([X, [np.nan, 0.0]]))]) is None


def test_the_summary_names_each_figure_once() -> None:
    """Every number is another one, so that none can stand in the place of another."""
    metrics = {
        "loss": 21.456, "mlm_loss": 5.4321, "rtd_loss": 0.31418, "mlm_accuracy": 0.123,
        "mlm_baseline_accuracy": 0.045, "sampled_accuracy": 0.9, "rtd_accuracy": 0.876,
        "rtd_precision": None, "rtd_recall": 0.7, "rtd_auc": 0.765, "replaced_share": 0.12,
    }  # fmt: skip
    assert summary(metrics) == (
        "held-out loss 21.46 (MLM 5.432, RTD 0.3142), MLM accuracy 0.123 (most frequent token "
        "0.045), RTD AUC 0.765, accuracy 0.876 (all original 0.880)"
    )
    assert "AUC nan" in summary({**metrics, "rtd_auc": None})


def encoder_of(output: Output, best: list[int], loss: float) -> Output:
    """Return ``output`` with guesses of an encoder beside the generator."""
    guesses = Guesses(NOTHING, np.eye(WORDS)[np.array(best)], np.array(loss))
    return output._replace(encoder_guesses=guesses)


def test_the_figures_of_an_encoder_beside_the_generator() -> None:
    """Of the same positions: one of three right, then one of two."""
    first, second = outputs()
    both = [encoder_of(first, [5, 2, 2, 8], 9.0), encoder_of(second, [1, 7], 1.0)]
    plain = metrics_of([measure(reference, output) for output in outputs()])
    assert metrics_of([measure(reference, output) for output in both]) == {
        **plain,
        "encoder_mlm_loss": pytest.approx(10 / 5),
        "encoder_mlm_accuracy": pytest.approx(2 / 5),
    }


def test_an_objective_has_the_figures_of_its_tasks_alone() -> None:
    guessing = {"loss", "mlm_loss", "mlm_accuracy", "mlm_baseline_accuracy", "generator_entropy"}
    sampling = {"sampled_accuracy", "distinct_samples", "distinct_originals"}
    detecting = {
        *("rtd_accuracy", "rtd_precision", "rtd_recall", "rtd_auc", "rtd_masked_auc"),
        *("rtd_probability_original", "rtd_probability_replaced", "rtd_calibration_error"),
        *("replaced_share", "hidden_cosine"),
    }
    (mlm, rtd), every = outputs()[0].terms, outputs()[0]
    only_mlm = every._replace(terms=(mlm,), corrupted=None, detections=None)
    assert metrics_of([measure(reference, output) for output in [only_mlm]]).keys() == guessing
    only_rtd = every._replace(terms=(rtd,), guesses=None)
    figures = metrics_of([measure(reference, output) for output in [only_rtd]])
    assert figures.keys() == {"loss", "rtd_loss", *sampling, *detecting}
    assert summary(figures) == (
        "held-out loss 10.00 (RTD 0.5000), RTD AUC 0.667 (masked tokens 1.000), accuracy 0.600 "
        "(all original 0.600)"
    )


SUMMARIES: list[tuple[dict[str, float | None], str]] = [
    (  # mlm
        {"loss": 5.25, "mlm_loss": 5.25, "mlm_accuracy": 0.125, "mlm_baseline_accuracy": 0.0625},
        "held-out loss 5.25 (MLM 5.250), MLM accuracy 0.125 (most frequent token 0.062)",
    ),
    (  # replace-mlm
        {"loss": 9.5, "mlm_loss": 5.25, "replace_mlm_loss": 4.25, "encoder_mlm_loss": 3.5,
         "mlm_accuracy": 0.125, "encoder_mlm_accuracy": 0.25, "sampled_accuracy": 0.1,
         "mlm_baseline_accuracy": 0.5},
        "held-out loss 9.50 (MLM 5.250, Replace MLM 4.250), MLM accuracy 0.125 (most frequent "
        "token 0.500), encoder MLM accuracy 0.250",
    ),
    (  # all-tokens-mlm with a uniform generator
        {"loss": 4.25, "all_tokens_loss": 4.25, "encoder_mlm_loss": 3.5,
         "encoder_mlm_accuracy": 0.25, "mlm_baseline_accuracy": 0.5, "sampled_accuracy": 0.1,
         "rtd_accuracy": 0.75, "rtd_precision": 0.3, "rtd_recall": 0.4, "rtd_auc": 0.875,
         "replaced_share": 0.25},
        "held-out loss 4.25 (all tokens 4.2500), encoder MLM accuracy 0.250 (most frequent token "
        "0.500), RTD AUC 0.875, accuracy 0.750 (all original 0.750)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("metrics", "line"), SUMMARIES, ids=["mlm", "replace", "all-tokens"])
def test_the_summary_of_other_objectives(metrics: dict[str, float | None], line: str) -> None:
    assert summary(metrics) == line
