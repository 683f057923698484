"""A test that the tests of the fast operations can fail: they must notice wrong kernels.

The tests are those of ``JUDGING``: they compare an operation and its gradient with the formula
within the derived bound. They run on the kernels as plain Python, at sizes that give every kernel
several blocks. Each mutant is given to the tests that evaluated its term, until one fails.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple
from unittest import mock

import numba
import numpy as np
import pytest

from electra_ref.backends import cpu
from tests import (
    fast_operations,
    test_cpu_layers,
    test_cpu_losses,
    test_cpu_optimizer,
    test_cpu_products,
    test_cpu_refusals,
    test_exponential,
)
from tests.interpreted_kernels import PACKAGE, functions_of, import_interpreted
from tests.kernel_mutants import KERNEL_OPERATORS, KernelWrapper, kernel_operators_for
from tests.mutants import WRAP, Instrument, instrumented
from tests.operation_cases import Sizes

JUDGING = (
    test_cpu_products,
    test_cpu_layers,
    test_cpu_losses,
    test_cpu_optimizer,
    test_cpu_refusals,
    test_exponential,
)
THREADS = 2  # that products are split for, whatever the machine has

ARGUMENTS: dict[str, list[Any]] = {  # of the judges
    "seed": [1],
    "sizes": [
        Sizes(2, 5, heads=2, head_width=3, width=6, outputs=7, slots=3, rate=0.5),
        Sizes(1, 6, heads=1, head_width=5, width=5, outputs=4, slots=2, rate=0.0),
        Sizes(2, 4, heads=1, head_width=2, width=4, outputs=2, slots=2, rate=1 / 65536),
        Sizes(1, 2, heads=2, head_width=1, width=4, outputs=2, slots=1, rate=0.999995),
    ],
    "tokens": ["any number", "one"],
    "depth": [11],
    "offset": [0, 1],
    "count": [11],
    "decay": [0.5],
    "learning_rate": [0.5],
    "epsilon": [0.03],
    "gradient_scale": [0.3],
}

# Mutants that change no number by more than the bound allows, and the proof of it: by function,
# "expression [operators]".
EQUIVALENT: dict[str, dict[str, list[str]]] = {
    "columns beyond the width of out are computed and left out": {
        "cpu.matrix_product.multiply_rows": [
            "np.zeros((a.shape[0], COLUMNS), np.float32) [1 for 0]",
        ],
    },
    "the last panel may be treated as one that is not full": {
        "cpu.matrix_product.multiply_rows": ["width [- 1]"],
    },
    "the kernel leaves nothing of nothing, too, once it is compiled": {
        "cpu.matrix_product.multiply": ["out.size [+ 1]"],
    },
    "a slice ends where its array does": {
        "cpu.attention._head": ["x.shape[1] [+ 1]"],
    },
    "there is more than is read": {
        "cpu.attention._padding_scores": [
            "batch [+ 1]",
            "length [+ 1]",
            "-length [- 1]",
            "COLUMNS [- 1]",
            "-length // COLUMNS [- 1]",
            "-(-length // COLUMNS) [+ 1]",
            "COLUMNS #2 [+ 1]",
            "-(-length // COLUMNS) * COLUMNS [+ 1]",
        ],
        "cpu.attention._attend": ["width [+ 1]", "max(width, head_width) [+ 1]"],
        "cpu.attention._attend_backward": [
            "values.shape[0] [+ 1]",
            "COLUMNS [+ 1]",
            "values.shape[0] * COLUMNS [+ 1]",
            "max(values.shape[0] * COLUMNS, head_width) [+ 1]",
            "length [+ 1]",
        ],
    },
    "some rows are computed twice, to the same end": {
        "cpu.dropout_add_layer_norm._dropout_add_layer_norm": [
            "chunk * CHUNK [- 1]",
            "CHUNK #3 [+ 1]",
            "chunk #2 [+ 1]",
            "1 [+ 1]",
            "chunk + 1 [+ 1]",
            "(chunk + 1) * CHUNK [+ 1]",
        ],
    },
    "there may be any number of tasks from one to that of strips": {
        "cpu.matrix_product.multiply": ["numba.get_num_threads() [+ 1, - 1]"],
        "cpu.matrix_product._number_of_tasks": [
            "ROWS [+ 1]",
            "strips [+ 1]",
            "-strips [- 1]",
            "MOST_STRIPS [+ 1, - 1]",
            "threads [+ 1, - 1]",
            "MOST_STRIPS * threads [+ 1, - 1]",
            "-strips // (MOST_STRIPS * threads) [- 1]",
            "-(-strips // (MOST_STRIPS * threads)) [+ 1]",
            "rounds [+ 1]",
            "threads #2 [+ 1, - 1]",
            "rounds * threads [+ 1, - 1]",
        ],
    },
    "one more strip moves borders between tasks; the last one is cut at the last row": {
        "cpu.matrix_product._rows_of_task": [
            "count [+ 1]",
            "-count [- 1]",
            "-count // ROWS [- 1]",
            "-(-count // ROWS) [+ 1]",
        ],
    },
    "nothing is read there": {
        "cpu.attention.attention": ["1 #4 [+ 1]", "1 #5 [+ 1]", "0 [+ 1]", "0 #2 [+ 1]"],
        "cpu.dropout_add_layer_norm._dropout_add_layer_norm": [
            "room [drop, sign, x 2, x 0.5, x 1.001]"
        ],
    },
    "the way around the edge is taken more often, to the same end": {
        "cpu.matrix_product._as_stored": ["is_transpose(matrix) [not]"],
        "cpu.matrix_product._multiply": [
            "j #5 [+ 1]",
            "1 #2 [+ 1]",
            "j + 1 #2 [+ 1]",
            "COLUMNS #3 [+ 1]",
            "(j + 1) * COLUMNS #2 [+ 1]",
            "width [- 1]",
        ],
        "cpu.dropout.draw": ["threshold [+ 1]", "0 [- 1]"],  # threshold 0 keeps all, by 1.0
        "cpu.dropout.dropout_backward": ["drop.threshold [+ 1]"],
    },
    "one more turn of a loop finds nothing left, or does the same again": {
        "cpu.dropout_add_layer_norm._dropout_add_layer_norm": [
            "x.shape[0] [+ 1]",
            "-x.shape[0] [- 1]",
            "CHUNK [- 1]",
            "-x.shape[0] // CHUNK [- 1]",
            "-(-x.shape[0] // CHUNK) [+ 1]",
            "CHUNK #2 [- 1]",
        ],
    },
    "a sum, a maximum, or a batch, has no order; -1 is the last": {
        "cpu.matrix_product._multiply": ["0 #2 [- 1]", "0 #3 [- 1]"],
        "cpu.matrix_product._add_rows": ["k [- 1]"],
        "cpu.layer_norm.normalize_row": ["i [- 1]"],
        "cpu.softmax_cross_entropy._row_maximum": ["v [- 1]"],
        "cpu.softmax_cross_entropy._sum_of_exponentials": ["v [- 1]"],
        "cpu.attention._attention": [
            *("task [- 1]", "task // heads [- 1]", "task #2 [+ 1, - 1]"),
            *("0 #2 [- 1]", "0 #3 [- 1]", "0 #4 [- 1]", "0 #5 [- 1]"),
        ],
        "cpu.attention._attention_backward": [
            *("task [- 1]", "task // heads [- 1]", "task #2 [+ 1, - 1]")
        ],
    },
    "sum of (x - mean) (x - c) is that of (x - mean)^2 for any c: the deviations sum to 0": {
        "cpu.layer_norm.normalize_row": [
            "mean [drop, sign, x 2, x 0.5, x 1.001]",
            "mean #2 [drop, sign, x 2, x 0.5, x 1.001]",
        ],
    },
    "softmax divides the factor out again": {
        "cpu.attention._softmax_row": [
            "exp_of_negative(scores[i] - largest) [sign, x 2, x 0.5, x 1.001]"
        ],
        "cpu.relax_embeddings._relax_row": [
            "exp_of_negative((out[v] - largest) * rate) [sign, x 2, x 0.5, x 1.001]"
        ],
    },
    "softmax does not see a shift, also by a thousandth of a score that does not overflow": {
        "cpu.attention._softmax_row": ["largest_number(scores) [x 1.001]", "largest [x 1.001]"],
        "cpu.largest.largest_number": [
            "LOWEST [+ 1, - 1]",
            "bits[i] [+ 1, - 1]",
            "bits[i] #2 [+ 1, - 1]",
            "31 [+ 1, - 1]",
            "np.int32(31) [+ 1, - 1]",
            "MAGNITUDE [- 1]",
            "bits[i] ^ bits[i] >> np.int32(31) & MAGNITUDE [+ 1, - 1]",
            "max(largest, bits[i] ^ bits[i] >> np.int32(31) & MAGNITUDE) [+ 1, - 1]",
            "largest [+ 1, - 1]",
            "largest #2 [+ 1, - 1]",
            "31 #2 [+ 1, - 1]",
            "np.int32(31) #2 [+ 1, - 1]",
            "MAGNITUDE #2 [- 1]",
            "largest ^ largest >> np.int32(31) & MAGNITUDE [+ 1, - 1]",
            "np.int32(largest ^ largest >> np.int32(31) & MAGNITUDE).view(np.float32) [x 1.001]",
        ],
        "cpu.attention._padding_scores": [
            "np.float32(0.0) [1 for 0]",
            "np.where(is_token, np.float32(0.0), PADDING) [1 for 0]",
            "scores [1 for 0]",
        ],
        "cpu.attention.attention": ["_padding_scores(attention_mask, is_there) [1 for 0]"],
        "cpu.softmax_cross_entropy._row_maximum": [
            "max(largest, logits[v]) [x 1.001]",
            "np.float32(largest) [x 1.001]",
        ],
        "cpu.softmax_cross_entropy.reduce_rows": ["_row_maximum(logits[m]) [x 1.001]"],
        "cpu.relax_embeddings._relax_row": [
            "largest [x 1.001]",
            "logits[0] + noise[0] [x 1.001]",
            "max(largest, out[v]) [x 1.001]",
        ],
    },
    "kernels read the first of any number of equal starts": {
        "cpu.arguments.starting_sums": ["2 [+ 1, - 1]"],
    },
    "exp of -5000, of -10000, of -20000 and of -infinity is 0": {
        "cpu.attention._padding_scores": [
            "np.where(is_token, np.float32(0.0), PADDING) [x 2, x 0.5, x 1.001]",
            "scores [x 2, x 0.5, x 1.001]",
        ],
        "cpu.attention.attention": [
            "_padding_scores(attention_mask, is_there) [x 2, x 0.5, x 1.001]",
        ],
    },
    "what is computed from it is replaced by 0": {
        "cpu.exponential.exp_of_negative": ["SMALLEST #2 [drop, sign, x 2, x 0.5, x 1.001]"],
    },
    "n is another integer next to x / log 2: r is at most 0.44 then, r^8 / 8! at most 0.6 u": {
        "cpu.exponential.exp_of_negative": [
            "clipped [x 1.001]",
            "PER_LOG_2 [x 1.001]",
            "clipped * PER_LOG_2 [x 1.001]",
        ],
    },
    "a thousandth of r^5 / 5! is at most 0.7 u, of r^6 / 6! 0.05 u": {
        "cpu.exponential.exp_of_negative": [
            "r #3 [x 1.001]",
            "r #4 [x 1.001]",
            "r #5 [x 1.001]",
            "C6 [x 1.001]",
            "C7 [x 1.001]",
            "r * C7 [x 1.001]",
            "C6 + r * C7 [x 1.001]",
            "r * (C6 + r * C7) [x 1.001]",
            "C5 + r * (C6 + r * C7) [x 1.001]",
            "r * (C5 + r * (C6 + r * C7)) [x 1.001]",
        ],
    },
}

Judge = Callable[[], None]


def judges_of(module: ModuleType) -> Iterator[tuple[str, Judge]]:
    """Yield the tests of ``module`` with all ``ARGUMENTS`` they take."""
    for name, test in vars(module).items():
        marks = [mark.name for mark in getattr(test, "pytestmark", [])]
        if not name.startswith("test_") or "slow" in marks:
            continue
        function = test.hypothesis.inner_test if hasattr(test, "hypothesis") else test
        names = list(inspect.signature(function).parameters)
        for number, values in enumerate(itertools.product(*(ARGUMENTS[n] for n in names))):
            yield f"{name} {number}", functools.partial(function, *values)


@contextlib.contextmanager
def on_interpreted_kernels() -> Iterator[list[FunctionType]]:
    """Let the judges test the kernels as plain Python; yield their functions."""
    modules = import_interpreted()
    operations, exponentials = fast_operations, test_exponential
    few = test_exponential.hard_arguments(count=1)
    with (
        mock.patch.object(operations, "CPU", modules[PACKAGE]),
        mock.patch.object(operations, "BFLOAT16_CPU", modules[f"{PACKAGE}.bfloat16"]),
        mock.patch.object(exponentials, "exponential", modules[f"{PACKAGE}.exponential"]),
        mock.patch.object(exponentials, "hard_arguments", return_value=few),
        mock.patch.object(numba, "get_num_threads", return_value=THREADS),
        np.errstate(all="ignore"),
    ):
        yield functions_of(modules)


class Campaign(NamedTuple):
    """What became of the mutants that were run."""

    functions: list[FunctionType]
    instrument: Instrument
    outcomes: dict[str, str]  # name of the mutant: "comparison", "exception" or "survived"

    def of(self, outcome: str) -> set[str]:
        """Return the names of the mutants that ended in ``outcome``."""
        return {name for name, reached in self.outcomes.items() if reached == outcome}


def run_campaign() -> Campaign:
    """Run all mutants."""
    with on_interpreted_kernels() as functions:
        judges = dict(itertools.chain.from_iterable(map(judges_of, JUDGING)))
        instrument = Instrument(KERNEL_OPERATORS, kernel_operators_for)
        with instrumented(functions, instrument, KernelWrapper):
            of_term = judges_of_terms(instrument, judges)
            outcomes: dict[str, str] = {}
            for mutant in instrument.mutants:
                with instrument.mutating(mutant):
                    name = instrument.name(mutant)
                    outcomes[name] = outcome(judges, of_term[mutant.number])
        for judge in judges.values():
            judge()  # all is as it was
    return Campaign(functions, instrument, outcomes)


def judges_of_terms(instrument: Instrument, judges: dict[str, Judge]) -> dict[int, list[str]]:
    """Return, for every term, the judges that evaluate it; they must all be content."""
    found: dict[int, list[str]] = {}
    for name, judge in judges.items():
        instrument.kinds.clear()
        with instrument.watching():
            judge()
        for number in instrument.kinds:
            found.setdefault(number, []).append(name)
    instrument.kinds.update(dict.fromkeys(found, ""))
    for mutant in instrument.mutants:  # the target of += is not evaluated, its value is
        found.setdefault(mutant.number, found.get(mutant.number + 1, []))
    return found


def outcome(judges: dict[str, Judge], names: list[str]) -> str:
    """Return what noticed the mutant; the judge that did comes first for its term from then on."""
    for name in names:
        try:
            judges[name]()
        except (AssertionError, pytest.fail.Exception):
            noticed = "comparison"
        except Exception:  # a wrong shape, or an index beyond an array
            noticed = "exception"
        else:
            continue
        names.remove(name)
        names.insert(0, name)
        return noticed
    return "survived"


def equivalent() -> set[str]:
    """Return the names of the mutants in ``EQUIVALENT``."""
    names = set()
    for functions in EQUIVALENT.values():
        for function, terms in functions.items():
            for term in terms:
                expression, _, operators = term[:-1].rpartition(" [")
                names |= {f"{function}: {expression} [{o}]" for o in operators.split(", ")}
    return names


@pytest.mark.slow
def test_every_mutant_is_noticed_unless_proven_equivalent() -> None:
    """No other survives, and each that is listed as equivalent does."""
    campaign = run_campaign()
    check_that_every_term_of_every_kernel_is_evaluated(campaign)
    check_that_nothing_of_the_mutants_is_left_behind(campaign)
    counts = {outcome: len(campaign.of(outcome)) for outcome in ("comparison", "exception")}
    print(f"{len(campaign.outcomes)} mutants of {len(campaign.functions)} functions: {counts}")
    assert campaign.of("survived") - equivalent() == set()
    assert equivalent() - campaign.of("survived") == set()
    assert counts["exception"] <= 0.3 * counts["comparison"]
    operators = {name[name.rindex("[") + 1 : -1] for name in campaign.outcomes}
    assert operators == set(KERNEL_OPERATORS)


def check_that_every_term_of_every_kernel_is_evaluated(campaign: Campaign) -> None:
    instrument = campaign.instrument
    missed = [
        term.name
        for number, term in enumerate(instrument.terms)
        if number not in instrument.kinds and not term.expression.endswith(" before")
    ]
    assert missed == []
    assert len(campaign.functions) > 60


def check_that_nothing_of_the_mutants_is_left_behind(campaign: Campaign) -> None:
    for function in campaign.functions:
        assert WRAP not in function.__code__.co_names
        assert WRAP not in function.__globals__
    assert sys.modules[PACKAGE] is cpu
    assert fast_operations.CPU is cpu
