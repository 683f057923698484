"""What the pre-training task hands to the step and to the evaluation.

The data are real: a small corpus, packed. The rows that a step must read are asked of the source of
the training rows, those of an evaluation of the source of the held-out rows. What an evaluation
computes on them is recorded where it calls the objective's forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

from electra_ref.backends import reference
from electra_ref.batch import Batch, SpecialTokens
from electra_ref.model.objectives import electra
from electra_ref.model.objectives.electra import Electra, model_of
from electra_ref.model.objectives.output import Output
from electra_ref.model.parameters import initial_values
from electra_ref.model.passes import ForwardPass
from electra_ref.rng import EVALUATION, Purpose, RandomStream
from electra_ref.text.examples import ExampleSource
from electra_ref.text.prepare import PreparedData, prepare
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.pretraining.metrics import measure, metrics_of, summary
from electra_ref.training.pretraining.samples import describe_samples
from electra_ref.training.pretraining.task import PretrainingTask, initial_state
from tests.small_runs import small_config, write_corpus

LENGTH, ENTRIES = 16, 60  # tokens a row, entries of the vocabulary
SPECIAL_TOKENS = SpecialTokens(pad=0, unknown=1, cls=2, sep=3, mask=4)

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("data")
    corpus = write_corpus(folder / "corpus.txt")
    return prepare(small_config(max_length=LENGTH), folder, corpus=[str(corpus)])


def task_of(data: PreparedData, **changes: Any) -> PretrainingTask:
    return PretrainingTask(small_config(vocab_size=ENTRIES, **changes), reference, data)


def state_of(task: PretrainingTask, seed: int = 0) -> TrainingState:
    return initial_state(small_config(seed=seed), reference, task.model, "float64")


def read(source: ExampleSource, numbers: Any) -> Batch:
    """Return the rows ``numbers`` of ``source`` as one batch."""
    return source.batch(np.asarray(numbers), LENGTH, SPECIAL_TOKENS)


def rows_of(batches: Iterable[Batch]) -> list[tuple[int, ...]]:
    """Return the token ids of each row."""
    return [tuple(row) for batch in batches for row in batch.input_ids.tolist()]


def assert_these_rows(parts: Iterable[Batch], whole: Batch) -> None:
    """Compare ids, segments and padding of ``parts``, one after the other, with ``whole``."""
    for name, expected, arrays in zip(Batch._fields, whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(arrays), expected, err_msg=name)


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_step_reads_its_rows_of_the_training_source_in_order(
    step: int, data: PreparedData
) -> None:
    batches = task_of(data, batch_size=6, accumulate=3, seed=5).batches(step)
    assert [len(batch.input_ids) for batch in batches] == [2, 2, 2]
    assert_these_rows(batches, read(data.training, data.training.training_examples(step, 6, 5)))


def test_an_epoch_reads_each_training_row_once(data: PreparedData) -> None:
    task, count = task_of(data, batch_size=7, accumulate=1), data.training.count
    rows = [row for step in range(-(-2 * count // 7)) for row in rows_of(task.batches(step))]
    first, second = rows[:count], rows[count : 2 * count]
    every_row = rows_of([read(data.training, np.arange(count))])
    assert len(set(every_row)) == count > 7  # no two rows are equal
    assert sorted(first) == sorted(second) == sorted(every_row)
    assert first != second
    assert first[: count - 1] != every_row[: count - 1]


def test_another_step_and_another_seed_read_other_rows(data: PreparedData) -> None:
    def rows(step: int, seed: int) -> set[tuple[int, ...]]:
        return set(rows_of(task_of(data, batch_size=8, accumulate=1, seed=seed).batches(step)))

    assert not rows(0, seed=1) & rows(1, seed=1)
    assert rows(0, seed=1) != rows(0, seed=2)


def test_no_training_row_is_held_out(data: PreparedData) -> None:
    training, held_out = (
        set(rows_of([read(source, np.arange(source.count))]))
        for source in (data.training, data.held_out)
    )
    assert min(len(training), len(held_out)) > 20
    assert not training & held_out


class Call(NamedTuple):
    """One call of the objective's forward pass, and what came out."""

    run: ForwardPass
    model: Electra
    batch: Batch
    stream: RandomStream
    output: Output


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Record the forward passes, which run as they are."""
    recorded: list[Call] = []
    original = electra.forward

    def forward(run: ForwardPass, model: Electra, batch: Batch, stream: RandomStream) -> Any:
        output, cache = original(run, model, batch, stream)
        recorded.append(Call(run, model, batch, stream, output))
        return output, cache

    monkeypatch.setattr(electra, "forward", forward)
    return recorded


def test_an_evaluation_reads_held_out_rows_undropped(data: PreparedData, calls: list[Call]) -> None:
    """Three batches of six rows, three rows at a time; each row is named by its number."""
    task = task_of(data, batch_size=6, accumulate=2, evaluation_batches=3, seed=5, temperature=1.7)
    state = state_of(task)
    state.step = 9  # of training; without schedules an evaluation does not depend on it
    task.evaluate(state.parameters, 9)
    numbers = data.held_out.evaluation_examples(18, 5)
    assert numbers.size == 18 < data.held_out.count
    assert_these_rows((call.batch for call in calls), read(data.held_out, numbers))
    assert [len(call.batch.input_ids) for call in calls] == [3] * 6
    for number, call in enumerate(calls):
        assert call.stream == RandomStream(5, Purpose.MASK | EVALUATION, 0, 3 * number)
        # None drops nothing; no backward pass follows
        assert call.run == ForwardPass(reference, state.parameters, None, with_caches=False)
        assert call.model == task.model


def test_an_evaluation_of_few_rows_reads_each_once(data: PreparedData, calls: list[Call]) -> None:
    """The last micro-batch is shorter where the rows do not fill it."""
    task = task_of(data, batch_size=14, accumulate=2, evaluation_batches=1000)
    task.evaluate(state_of(task).parameters, 0)
    count = data.held_out.count
    rows = rows_of(call.batch for call in calls)
    assert sorted(rows) == sorted(rows_of([read(data.held_out, np.arange(count))]))
    assert [call.stream.first_example for call in calls] == list(range(0, count, 7))
    assert len(calls[-1].batch.input_ids) == (count % 7 or 7)


def test_masks_of_an_evaluation_are_the_same_every_time(
    data: PreparedData, calls: list[Call]
) -> None:
    """At other parameters, too; and in micro-batches of any size. Another seed has other masks."""

    def masks(seed: int, accumulate: int, initial: int) -> list[list[int]]:
        calls.clear()
        task = task_of(data, batch_size=8, accumulate=accumulate, seed=seed)
        task.evaluate(state_of(task, initial).parameters, 0)
        positions = [call.output.masked.positions.tolist() for call in calls]
        return [row for part in positions for row in part]

    assert masks(5, 2, 0) == masks(5, 2, 1) == masks(5, 4, 2)
    assert masks(5, 2, 0) != masks(6, 2, 0)


def test_figures_are_those_of_all_rows_and_samples_those_of_the_first(
    data: PreparedData, calls: list[Call]
) -> None:
    task = task_of(data, batch_size=10, accumulate=2, evaluation_batches=2)
    evaluation = task.evaluate(state_of(task).parameters, 0)
    outputs = [call.output for call in calls]
    assert len(outputs) == 4
    assert evaluation.metrics == metrics_of([measure(reference, output) for output in outputs])
    assert evaluation.summary == summary(evaluation.metrics)
    vocabulary = data.tokenizer.vocab
    assert evaluation.samples == describe_samples(reference, outputs[0], vocabulary)
    rows = read(data.held_out, data.held_out.evaluation_examples(4, 0))
    assert [sample["original"] for sample in evaluation.samples] == [
        [vocabulary[token] for token in ids[is_token]]
        for ids, is_token in zip(rows.input_ids, rows.attention_mask, strict=True)
    ]


def test_the_model_is_the_configured_one(data: PreparedData) -> None:
    config = small_config(vocab_size=ENTRIES, temperature=1.7, generator_layers=1.0)
    task = PretrainingTask(config, reference, data)
    assert task.objective is electra
    assert task.model == model_of(config, config, SPECIAL_TOKENS)


def test_a_run_begins_with_the_initial_values_of_its_seed(data: PreparedData) -> None:
    config = small_config(vocab_size=ENTRIES, seed=3, initializer_range=0.3)
    model = task_of(data).model
    state = initial_state(config, reference, model, "float32")
    specs = electra.parameter_specs(model)
    assert state.parameters.vector.dtype == np.float32
    np.testing.assert_array_equal(state.parameters.vector, initial_values(specs, 3, 0.3, "float32"))
    assert state.step == 0
    assert not state.first_moment.vector.any()
    assert not state.second_moment.vector.any()


def test_an_identity_names_the_data(data: PreparedData) -> None:
    identity = task_of(data).identity()
    assert identity == {"data": data.key}
    assert task_of(data._replace(key="other")).identity() != identity
