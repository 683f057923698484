"""A test that the gradient test can fail: it must notice every wrong gradient of ``mutants``.

The comparison is that of ``test_electra_gradients``: the gradient of each tensor, query, key and
value separately, against the complex step of the whole loss. The forward pass runs only once,
because mutants are backward functions. Its caches are read-only, so no mutant can change them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import electra_ref.backends.reference
import electra_ref.model
from electra_ref.arrays import Array, sum_rows_by_index
from electra_ref.backends import reference
from electra_ref.gradient import GradientSum
from electra_ref.model.losses import gradient_scale
from electra_ref.model.objectives import electra
from electra_ref.model.parameters import FlatParameters, Gradients
from electra_ref.model.passes import BackwardPass, ForwardPass
from tests import mutants
from tests.gradient_checks import complex_step
from tests.head_cases import CASES_AND_FORMS, problem_of
from tests.mutants import Instrument, Mutant, instrumented
from tests.operation_cases import CASES, ELECTRA_EPS, STRAIGHT_THROUGH, Sizes
from tests.span_problems import span_problem
from tests.tiny_electra import (
    Comparison,
    Problem,
    complex_step_gradient,
    forward_of,
    make_problem,
    remembering_backend,
)
from tests.variants import (
    VariantProblem,
    complex_step_gradient_of_variant,
    variant_problem,
)

LOG_LIKELIHOOD = "electra_ref.backends.reference.vocabulary_log_likelihood"
OF_NO_STEP = (
    "relax_embeddings",
    STRAIGHT_THROUGH,
    "vocabulary_log_likelihood",
    "copy_gate_cross_entropy",
)
NOTICED = 1e-11  # relative error of a tensor above which a gradient counts as wrong

SOFTMAX_BACKWARD = "reference.softmax_cross_entropy.softmax_cross_entropy_backward"
LAYER_NORM_BACKWARD = "reference.layer_norm.layer_norm_backward"
ATTENTION_BACKWARD = "reference.attention.attention_backward"
RELAX_BACKWARD = "reference.relax_embeddings.relax_embeddings_backward"
LOG_LIKELIHOOD_BACKWARD = "reference.vocabulary_log_likelihood.vocabulary_log_likelihood_backward"
CHOICE_BACKWARD = "heads.choice.backward"
HEAD_BACKWARD = "heads.detection.detection_head_backward"
POOLING_BACKWARD = "heads.pooling.softmax_pooling_backward"
JOINT_SPAN = "heads.joint_span"
NEW_ZEROS = {
    "reference.embedding.embed_backward": "get_xp(dx).zeros((dposition.array.shape[0], "
    "width), dx.dtype)",
    "arrays.sum_rows_by_index": "xp.zeros((count, rows.shape[1]), rows.dtype)",
}
# Mutants that change no gradient, and the proof of it
EQUIVALENT = {
    **{
        f"{function}: {expression} [{operator}]": "zeros stay zeros, scaled or moved"
        for function, expression in NEW_ZEROS.items()
        for operator in (*mutants.OF_FLOATS, *mutants.OF_ARRAYS)
    },
    "arrays.sum_rows_by_index: xp.flatnonzero(rows.any(axis=1)) [roll the integers]": (
        "the same rows in another order, which changes rounding at most"
    ),
    f"{SOFTMAX_BACKWARD}: (dloss * weights)[:, None] [roll]": "the last axis has length 1",
    f"{LAYER_NORM_BACKWARD}: g #2 [roll]": "a mean over the axis that is rolled has no order",
    f"{LAYER_NORM_BACKWARD}: g * xhat [roll]": "a mean over the axis that is rolled has no order",
    f"{LAYER_NORM_BACKWARD}: g.mean(axis=-1, keepdims=True) [roll]": "the last axis has length 1",
    f"{LAYER_NORM_BACKWARD}: (g * xhat).mean(axis=-1, keepdims=True) [roll]": "as above",
    f"{LAYER_NORM_BACKWARD}: rstd [roll]": "one number a row: the last axis has length 1",
    f"{ATTENTION_BACKWARD}: dscores [roll]": "a sum over the axis that is rolled has no order",
    f"{ATTENTION_BACKWARD}: dscores.sum(axis=-1, keepdims=True) [roll]": "axis of length 1",
    f"{HEAD_BACKWARD}: dlogits[:, None] [roll]": "the last axis has length 1",
    f"{POOLING_BACKWARD}: hidden * dpooled[:, None, :] [roll]": "a sum has no order",
    f"{POOLING_BACKWARD}: pooled * dpooled [roll]": "a sum has no order",
    f"{POOLING_BACKWARD}: (pooled * dpooled).sum(axis=1, keepdims=True) [roll]": "axis of length 1",
    f"{POOLING_BACKWARD}: mean [roll]": "the last axis has length 1",
    f"{POOLING_BACKWARD}: probabilities[:, :, None] [roll]": "the last axis has length 1",
    "heads.pooling.token_mean_backward: weights[:, :, None] [roll]": "the last axis has length 1",
    f"{JOINT_SPAN}._impossible_backward: dlogits.reshape(-1, 1) [roll]": "axis of length 1",
    f"{JOINT_SPAN}._end_backward: dlogits.reshape(-1, 1) [roll]": "the last axis has length 1",
    f"{JOINT_SPAN}.joint_logits_backward: dstarts.reshape(-1, 1) [roll]": "axis of length 1",
    f"{CHOICE_BACKWARD}: run.backend.gather_positions_backward(dchoices.reshape(-1, 1), "
    "cache.gather) [roll]": "the last axis has length 1",
    f"{CHOICE_BACKWARD}: dchoices.reshape(-1, 1) [roll]": "as above",
    f"{CHOICE_BACKWARD}: dlogits [roll]": "as above",
    "heads.regression.backward: dpredicted[:, None] [roll]": "as above",
    "reinforce.reinforce_backward: dx[:, None] [roll]": "the last axis has length 1",
    "relaxation.relax_backward: cache.weights [roll]": "the last axis has length 1",
    f"{RELAX_BACKWARD}: probabilities * dlogits [roll]": (
        "a sum over the axis that is rolled has no order"
    ),
    f"{RELAX_BACKWARD}: (probabilities * dlogits).sum(axis=-1, keepdims=True) [roll]": "axis of 1",
    f"{LOG_LIKELIHOOD_BACKWARD}: dlogits #3 [roll]": (
        "a sum over the axis that is rolled has no order"
    ),
    f"{LOG_LIKELIHOOD_BACKWARD}: (-factors / dlogits.sum(axis=-1))[:, None] [roll]": "axis of 1",
}


def backward_functions(*packages: ModuleType) -> list[FunctionType]:
    """Return every function of ``packages`` whose name ends in backward, and what they call."""
    found: dict[FunctionType, None] = {}
    for package in packages:
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                if isinstance(value, FunctionType) and name.endswith("backward"):
                    found[value] = None
    methods = [value for value in vars(BackwardPass).values() if isinstance(value, FunctionType)]
    own = [method for method in methods if method.__module__ == BackwardPass.__module__]
    helpers: list[Any] = [sum_rows_by_index, gradient_scale, GradientSum.add, *own]
    return [*found, *helpers]


class Judge:
    """Knows the gradient of one problem, and runs backward passes on its caches."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._backend = remembering_backend()
        parameters = FlatParameters(problem.specs, problem.vector)
        _, self._cache = forward_of(problem, parameters, self._backend)
        make_read_only(self._cache)
        self._comparison = Comparison(problem.specs, complex_step_gradient(problem))

    def worst_error(self) -> float:
        """Return the largest relative error of a tensor; infinite where one is not finite."""
        problem = self._problem
        gradients = Gradients(problem.specs, np.full_like(problem.vector, np.nan))
        run = BackwardPass(self._backend, gradients)
        with np.errstate(all="ignore"):
            electra.backward(run, problem.model, problem.counts, fresh(self._cache))
            worst = float(np.max(list(self._comparison.errors(gradients.vector).values())))
        return worst if np.isfinite(worst) else np.inf


class VariantJudge:
    """The same for a variant, or for a task head: its own objective runs backward."""

    def __init__(self, problem: VariantProblem) -> None:
        self._problem = problem
        self._backend = remembering_backend()
        run = ForwardPass(
            self._backend, FlatParameters(problem.specs, problem.vector), problem.stream
        )
        _, self._cache = problem.objective.forward(
            run, problem.model, problem.batch, problem.stream
        )
        make_read_only(self._cache)
        exact = complex_step_gradient_of_variant(problem, self._backend)
        self._comparison = Comparison(problem.specs, exact, problem.shifts)

    def worst_error(self) -> float:
        """Return the largest relative error of a tensor; infinite where one is not finite."""
        problem = self._problem
        gradients = Gradients(problem.specs, np.full_like(problem.vector, np.nan))
        run = BackwardPass(self._backend, gradients)
        with np.errstate(all="ignore"):
            problem.objective.backward(run, problem.model, problem.counts, fresh(self._cache))
            worst = float(np.max(list(self._comparison.errors(gradients.vector).values())))
        return worst if np.isfinite(worst) else np.inf


class OperationJudge:
    """Knows the exact gradient of one operation by itself: the step does not need them all."""

    def __init__(self, name: str, sizes: Sizes, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._case = case = CASES[name](reference, sizes, random, ELECTRA_EPS)
        y, self._cache = case.forward(*case.inputs)
        make_read_only(self._cache)
        self._dy = random.standard_normal(y.shape)
        self._exact = [self._gradient(number) for number in range(len(case.inputs))]

    def _gradient(self, number: int) -> Array:
        """Return the gradient of one input, a number at a time."""
        gradient = np.empty(self._case.inputs[number].shape)
        for place in np.ndindex(gradient.shape):
            directions = [np.zeros_like(x) for x in self._case.inputs]
            directions[number][place] = 1.0
            derivative = complex_step(self._case.forward, self._case.inputs, directions)
            gradient[place] = np.sum(self._dy * derivative)
        return gradient

    def worst_error(self) -> float:
        """Return the largest relative error of a gradient; infinite where one is not finite."""
        with np.errstate(all="ignore"):
            gradients = self._case.backward(self._dy, self._cache)
            errors = [
                float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
                for got, exact in zip(gradients, self._exact, strict=True)
            ]
        return max(errors) if np.isfinite(errors).all() else np.inf


AnyJudge = Judge | VariantJudge | OperationJudge


def fresh(cache: Any) -> Any:
    """Return ``cache`` with lists of layers of its own: the backward pass empties them."""
    if isinstance(cache, list):
        return list(cache)
    if isinstance(cache, tuple) and hasattr(cache, "_fields"):
        return type(cache)(*map(fresh, cache))
    return cache


def make_read_only(value: Any) -> None:
    """Forbid writing into all arrays of a cache."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif isinstance(value, (tuple, list)):
        for part in value:
            make_read_only(part)


class Campaign(NamedTuple):
    """What became of the mutants that were run."""

    functions: list[FunctionType]
    instrument: Instrument
    outcomes: dict[str, str]  # name of the mutant: "comparison", "exception" or "survived"

    def of(self, outcome: str) -> list[str]:
        """Return the names of the mutants that ended in ``outcome``."""
        return [name for name, reached in self.outcomes.items() if reached == outcome]


def run_campaign() -> Campaign:
    """Run the mutants of the reference and of the model."""
    # No padding and other loss weights in the second: the largest element of an array is then
    # never one that does not count, and no weight is 1. No attention dropout: another branch.
    changes: dict[str, Any] = {
        "generator_weight": 3.0,
        "attention_dropout": 0.0,
        "num_hidden_layers": 1,
        "lengths": (9, 9, 9),
    }
    problems = [
        make_problem(0.5, seed=1, num_hidden_layers=1),
        make_problem(0.02, seed=2, **changes),
    ]
    functions = backward_functions(electra_ref.backends.reference, electra_ref.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module(LOG_LIKELIHOOD), "ROWS_AT_A_TIME", 3)
        judges: list[AnyJudge] = [
            *map(Judge, problems),
            *map(VariantJudge, (*variant_problems(), *head_problems())),
            *operation_judges(),
        ]
        return run(functions, judges)


def variant_problems() -> list[VariantProblem]:
    """Return few variants that together reach all that ELECTRA itself does not."""
    small: dict[str, Any] = {
        "embedding_size": 4, "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 5,
        "generator_hidden_size": 0.5, "max_length": 9, "max_position_embeddings": 10,
    }  # fmt: skip
    full: dict[str, Any] = {"num_attention_heads": 1, "intermediate_size": 24,
                            "generator_hidden_size": 1.0}  # fmt: skip
    return [
        variant_problem(  # where most tokens are masked, the largest gradient is at one of them
            "gumbel-softmax, soft, another temperature", 0.5, 1, **small, mask_probability=0.9
        ),
        variant_problem("gumbel-softmax, straight-through, gdes", 0.5, 2, **small),
        variant_problem("reinforce", 0.5, 3, **small),
        variant_problem("all-tokens-mlm, sharing-none", 0.5, 4, **small),
        variant_problem("replace-mlm, sharing-all", 0.5, 5, **{**small, **full}),
        variant_problem("mlm", 0.5, 6, **small),
    ]


def head_problems() -> list[VariantProblem]:
    """Return all task heads, each in all its forms."""
    small: dict[str, Any] = {"embedding_size": 4, "hidden_size": 4, "num_attention_heads": 2,
                             "intermediate_size": 3}  # fmt: skip
    return [
        *(
            problem_of(name, form, seed=seed, **small)
            for seed, (name, form) in enumerate(CASES_AND_FORMS, start=1)
        ),
        span_problem("original", 0.5, 7),
        span_problem("original", 0.5, 9, all_places=True),
        span_problem("huggingface", 0.5, 8),
    ]


def operation_judges() -> list[OperationJudge]:
    """Return the judges of the operations that no step of ELECTRA needs."""
    sizes = Sizes(2, 5, heads=1, head_width=1, width=5, outputs=4, slots=3, rate=0.0)
    return [OperationJudge(name, sizes, seed=4) for name in OF_NO_STEP]


def run(functions: list[FunctionType], judges: Sequence[AnyJudge]) -> Campaign:
    """Run the mutants of ``functions``; the first judge who notices decides."""
    with instrumented(functions) as instrument:
        with instrument.watching():
            assert all(judge.worst_error() < NOTICED / 10 for judge in judges)
        outcomes = {instrument.name(m): outcome(instrument, m, judges) for m in instrument.mutants}
    assert all(judge.worst_error() < NOTICED / 10 for judge in judges)  # all is as it was
    return Campaign(functions, instrument, outcomes)


def outcome(instrument: Instrument, mutant: Mutant, judges: Sequence[AnyJudge]) -> str:
    """Return by what the mutant was noticed first."""
    with instrument.mutating(mutant):
        for judge in judges:
            try:
                if judge.worst_error() > NOTICED:
                    return "comparison"
            except Exception:  # a wrong shape or index, or a write into a cache
                return "exception"
    return "survived"


@pytest.mark.slow
def test_every_mutant_is_noticed_unless_proven_equivalent() -> None:
    """No other survives, and each that is listed as equivalent does. Hardly any raises."""
    campaign = run_campaign()
    check_that_every_summand_of_every_gradient_is_mutated(campaign)
    check_that_nothing_of_the_mutants_is_left_behind(campaign)
    survivors = set(campaign.of("survived"))
    assert survivors - set(EQUIVALENT) == set()
    assert set(EQUIVALENT) - survivors == set()
    counts = {outcome: len(campaign.of(outcome)) for outcome in ("comparison", "exception")}
    print(f"{len(campaign.outcomes)} mutants of {len(campaign.functions)} functions: {counts}")
    assert len(campaign.functions) >= 20
    assert counts["comparison"] >= 1500
    assert counts["exception"] <= 0.03 * counts["comparison"]
    operators = {name[name.rindex("[") + 1 : -1] for name in campaign.outcomes}
    assert operators == set(mutants.OPERATORS)


def check_that_every_summand_of_every_gradient_is_mutated(campaign: Campaign) -> None:
    """The summands, counted apart from the wrapping, and the terms that were run agree."""
    instrument = campaign.instrument
    have_mutants = {mutant.number for mutant in instrument.mutants}
    covered: Counter[tuple[str, str]] = Counter()
    for number, term in enumerate(instrument.terms):
        if term.expression.endswith(" before"):  # the target of an augmented assignment
            continue
        assert number in instrument.kinds, f"{term.name} was never evaluated"
        assert number in have_mutants or not is_gradient(instrument.kinds[number]), term.name
        covered[term.function, term.expression] += 1
    summands = Counter(
        (mutants.name_of(function), expression)
        for function in campaign.functions
        for expression in mutants.additive_terms(function)
    )
    assert summands.total() >= 100
    assert summands - covered == Counter()


def is_gradient(kind: str) -> bool:
    """Return whether values of this kind are numbers that a mutant can change."""
    return kind.startswith("float")


def check_that_nothing_of_the_mutants_is_left_behind(campaign: Campaign) -> None:
    for function in campaign.functions:
        assert mutants.WRAP not in function.__code__.co_names
        assert mutants.WRAP not in function.__globals__
