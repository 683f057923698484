"""Warnings of a pre-training run that learns nothing, while it runs.

Each check looks at the held-out records of metrics.jsonl so far. What an earlier evaluation showed
already is not said again. So the records alone decide, and a resumed run says what a run that was
never stopped says. A check is silent where a record lacks a figure. It looks at evaluations after
the warm-up only, and needs more than one of them: much of this is normal in the first steps.

The figures beside each threshold are those of real runs with ``evaluate_every=100``, but for the
last one (1000):

* tiny: ``--preset tiny`` on the embedded corpus, seeds 0, 1 and 2, with
  initial_attention=random; AUC 0.73 to 0.76 in the end.
* collapsed: 1.9 million tokens of novels, ``--preset small`` with hidden_size=128,
  num_hidden_layers=4, intermediate_size=512, max_vocab_size=8192, batch_size=16, steps=2000,
  warmup_steps=200, evaluation_batches=16; AUC 0.54 and recall 0.002 in the end. Two checks speak
  at step 700.
* cured: the same with the values that these checks propose; AUC 0.70 at step 700, not 0.56. The
  narrower generator and the larger initial values alone gave 0.58, a fifth of the learning rate
  0.59 at step 600, and falling; initial_attention=neighbours alone gave 0.55 at step 900.
* cool: ``--preset laptop`` with temperature=1 and steps=3000 on 176 MB of English text; AUC 0.56
  and recall 0 in the end, where temperature=1.3 gives 0.85.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training.schedule import learning_rate

Record = Mapping[str, Any]
History = Sequence[Record]  # of held-out records, the oldest first

EARLIEST_STEP = 500  # small (batch_size=16, 70 steps of its warm-up): recall 0, but AUC 0.68
LATEST_START = 0.25  # share of the steps after which a warm-up is no excuse any more
SPAN, LONGEST_SPAN = 0.1, 1000  # share of the steps, and steps, in which all evaluations agree

SMALLEST_GAIN = (
    0.03  # tiny 0.044 or more, cured 0.055; collapsed 0.008 to 0.012, cool 0.022 to 0.024
)
LARGEST_AUC = 0.6  # tiny 0.645 or more, cured 0.676; collapsed 0.53 to 0.56, cool 0.55 to 0.56
LARGEST_COSINE = 0.92  # from step 200 on: tiny 0.67 to 0.89, collapsed 0.931 to 0.958; but cured
# 0.955 at step 300, so that the gain has to be small, too
FEWEST_DISTINCT = 0.25  # of the originals; tiny 1.31 or more, collapsed, too, 0.95 or more
SMALLEST_SHARE = 0.02  # tiny 0.119 or more, collapsed 0.132 or more
SMALLEST_FALL = 0.002  # tiny: over 500 steps, that of some loss is 0.018 or more
STILL_SPAN, STILL_EVALUATIONS = 0.2, 5  # share of the steps, and falls that it takes at least
SMALLEST_RATE = 0.2  # share of the peak; below it, little movement is the schedule's doing


class Check(NamedTuple):
    """One way in which a run fails."""

    name: str
    holds: Callable[[History, PretrainingConfig], bool]
    message: str  # with the likely cause; {figures} of the newest record and {config keys}
    remedies: Mapping[str, float] | None = None  # settings of runs that did not fail so


def judged(records: Iterable[Record], config: PretrainingConfig) -> list[Record]:
    """Return the held-out ``records`` that count: those after the first step of all networks.

    Of two stages, the first trains no discriminator.
    """
    return [record for record in records if record["step"] > config.two_stage_steps]


def new_warnings(
    history: History, config: PretrainingConfig, *, of_model: bool = False
) -> list[str]:
    """Return what the newest record of ``history`` is the first to show, a line for each check.

    ``history`` holds the held-out records that are ``judged``, the oldest first. A run ``of_model``
    began with the parameters of another.
    """
    newest, warnings = len(history), all_warnings(history, config, of_model=of_model)
    return [f"warning: {line}" for count, line in warnings if count == newest]


def all_warnings(
    history: History, config: PretrainingConfig, *, of_model: bool = False
) -> list[tuple[int, str]]:
    """Return a line for each check that holds, behind how many records of ``history`` it takes."""
    counts = [(first_shown(check, history, config), check) for check in CHECKS]
    return [
        (count, _said(check, history[count - 1], config, of_model))
        for count, check in counts
        if count
    ]


def _said(check: Check, record: Record, config: PretrainingConfig, of_model: bool) -> str:
    text = check.message.format_map({**vars(config), **_where_the_loss_is(record, config)})
    if check.remedies is not None:
        text += f": {advice(check.remedies, config, record['step'], of_model=of_model)}"
    return f"step {record['step']:,}: {text}"


def first_shown(check: Check, history: History, config: PretrainingConfig) -> int:
    """Return how many records of ``history`` it takes for ``check`` to hold; 0 if it never does."""
    history = [_where_the_loss_is(record, config) for record in history]
    lengths = range(1, len(history) + 1)
    return next((n for n in lengths if check.holds(history[:n], config)), 0)


def _lately(shows: Callable[[Record], bool]) -> Callable[[History, PretrainingConfig], bool]:
    """Return a check of whether all records of late show something."""

    def holds(history: History, config: PretrainingConfig) -> bool:
        recent = _recent(history, config, min(SPAN * config.steps, LONGEST_SPAN))
        return bool(recent) and all(shows(record) for record in recent)

    return holds


def _recent(
    history: History, config: PretrainingConfig, span: float, evaluations: int = 2
) -> Sequence[Record]:
    """Return the newest records: at least so many, of at least ``span`` steps.

    So they begin with the newest record that is ``span`` steps old or older, or earlier, to be so
    many. Empty where there are not so many after the warm-up.
    """
    start = max(EARLIEST_STEP, min(config.warmup_steps, LATEST_START * config.steps))
    settled = [record for record in history if record["step"] >= start]
    newest = history[-1]["step"]
    older = [n for n, r in enumerate(settled) if r["step"] <= newest - span]
    first = min(older[-1] if older else -1, len(settled) - evaluations)
    return settled[first:] if first >= 0 else []


def _is_known(record: Record, *names: str) -> bool:
    return all(record.get(name) is not None for name in names)


def _where_the_loss_is(record: Record, config: PretrainingConfig) -> Record:
    """Return ``record`` with figures of the tokens that the RTD loss counts.

    In ``electra-15`` these are the masked ones. A sample there is original if it is right. In pairs
    half of the tokens cannot be replaced. A discriminator without a loss is not judged.
    """
    if config.detects and config.discriminator_weight == 0.0:
        return {**record, "rtd_loss": None}
    if config.reads_pairs and _is_known(record, "replaced_share"):
        record = {**record, "share_of_samples": 2.0 * record["replaced_share"]}
    if config.objective != "electra-15" or not _is_known(record, "sampled_accuracy"):
        return record
    share, auc = 1.0 - record["sampled_accuracy"], record.get("rtd_masked_auc")
    return {**record, "share_in_loss": share, "rtd_auc": auc}


def _gain(record: Record) -> float | None:
    """Return by what share the RTD loss is below that of the best probability for all its tokens.

    That probability is the share s of them that are replaced, and its loss is
    -s log s - (1 - s) log(1 - s). None where all tokens have one label, or a figure is unknown.
    """
    if not _is_known(record, "rtd_loss", "replaced_share"):
        return None
    share = record.get("share_in_loss", record["replaced_share"])
    if not 0.0 < share < 1.0:
        return None
    constant = -share * math.log(share) - (1.0 - share) * math.log(1.0 - share)
    return float(1.0 - record["rtd_loss"] / constant)


def _no_better_than_a_constant(record: Record) -> bool:
    gain = _gain(record)
    if gain is None or not _is_known(record, "rtd_auc"):
        return False
    return bool(gain < SMALLEST_GAIN and record["rtd_auc"] < LARGEST_AUC)


def _states_alike(record: Record) -> bool:
    """Return whether the hidden states are nearly the same, and do not serve detection."""
    gain = _gain(record)
    if gain is None or not _is_known(record, "hidden_cosine"):
        return False
    return bool(gain < SMALLEST_GAIN and record["hidden_cosine"] > LARGEST_COSINE)


def _few_tokens(record: Record) -> bool:
    names = "distinct_samples", "distinct_originals"
    if not _is_known(record, *names):
        return False
    samples, originals = (record[name] for name in names)
    return bool(samples < FEWEST_DISTINCT * originals)


def _few_replaced(record: Record) -> bool:
    if not _is_known(record, "replaced_share"):
        return False
    return bool(record.get("share_of_samples", record["replaced_share"]) < SMALLEST_SHARE)


def _loss_stands_still(history: History, config: PretrainingConfig) -> bool:
    """Return whether no loss has fallen lately, at a learning rate that should move it."""
    if learning_rate(config, history[-1]["step"]) < SMALLEST_RATE * config.learning_rate:
        return False
    recent = _recent(history, config, STILL_SPAN * config.steps, STILL_EVALUATIONS + 1)
    if not recent:
        return False
    losses = list(_losses_of(recent))
    return bool(losses) and all(
        min(later) > (1.0 - SMALLEST_FALL) * before for before, *later in losses
    )


def _losses_of(records: History) -> Iterator[list[float]]:
    """Yield the values of each loss that all ``records`` have."""
    for name in records[-1]:
        if name.endswith("loss") and all(_is_known(record, name) for record in records):
            yield [record[name] for record in records]


LOWERED = "generator_hidden_size", "adam_epsilon"  # remedies that help by less; others by more
LIKE_TINY = {
    "generator_hidden_size": 0.0625,
    "temperature": 1.3,
    "initializer_range": 0.08,
    "adam_epsilon": 1e-8,
}
OF_MODEL = "generator_hidden_size", "initializer_range"
CHECKS = (
    Check(
        "constant discriminator",
        _lately(_no_better_than_a_constant),
        "the discriminator is no better than one answer for all tokens (AUC {rtd_auc:.2f}, 0.5 is "
        "guessing). Its generator probably learns faster than it",
        LIKE_TINY,
    ),
    Check(
        "hidden states alike",
        _lately(_states_alike),
        "the discriminator's hidden states are nearly the same for all tokens (mean cosine "
        "{hidden_cosine:.3f}), so its encoder learns nothing. Its generator probably learns faster "
        "than it, or its initial values are too small",
        LIKE_TINY,
    ),
    Check(
        "few tokens",
        _lately(_few_tokens),
        "the generator answers few different tokens ({distinct_samples:,}, where "
        "{distinct_originals:,} different ones were masked). It probably samples at too low a "
        "temperature, or its learning rate (now {learning_rate:g}) is too high",
        {"temperature": 1.3},
    ),
    Check(
        "loss stands still",
        _loss_stands_still,
        "no held-out loss has fallen for a while. If the training losses in metrics.jsonl still "
        "fall, the data are seen too often: use more text or fewer steps. Otherwise learning_rate "
        "(now {learning_rate:g}) is too high or too low: go on with half of it, or twice",
    ),
    Check(
        "few replaced",
        _lately(_few_replaced),
        "only {replaced_share:.1%} of the tokens are replaced, so there is little to learn "
        "from. The generator probably guesses too well, samples at too low a temperature, or too "
        "little is masked",
        {"generator_hidden_size": 0.0625, "temperature": 1.3, "mask_probability": 0.15},
    ),
)


def advice(
    remedies: Mapping[str, float], config: PretrainingConfig, step: int, *, of_model: bool = False
) -> str:
    """Return what to begin again with: those of ``remedies`` that the run falls short of.

    Only settings that something reads are named; a run ``of_model`` has its sizes and numbers. An
    adversarial generator is named first.
    """
    if config.adversarial != "none":
        return "begin again with adversarial='none', or a smaller adversarial_weight"
    changes = []
    for key, value in remedies.items():
        is_schedule = key == "temperature" and config.temperature_steps > 0
        now = config.temperature_at(step) if key == "temperature" else getattr(config, key)
        helps = value < now if key in LOWERED else value > now
        if not helps or not _is_read(key, config) or (of_model and key in OF_MODEL):
            continue
        if is_schedule and value == config.temperature:
            changes.append(f"no temperature_steps (the temperature is now {now:g})")
        else:
            name = "temperature_end" if is_schedule else key
            changes.append(f"--set {name}={value:g} (now {now:g})")
    return f"begin again with {', '.join(changes)}" if changes else "more text or steps may help"


def _is_read(key: str, config: PretrainingConfig) -> bool:
    """Return whether ``key`` can be set in a run like ``config`` and does something there."""
    if key == "generator_hidden_size":
        is_free = config.sharing != "all" and config.two_stage_steps == 0
        return is_free and config.why_no_generator is None
    return key != "temperature" or config.why_no_generator is None
