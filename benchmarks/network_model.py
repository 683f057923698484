"""How much faster many processes train: a step's time by the alpha-beta model of a network.

A message of x bytes takes alpha + x beta seconds between two machines. K processes, one on each
machine, take a step of B sequences with P parameters in

    T(K) = ceil(B / K) s + P o + C(K)
    C(K) = (2 m + r) (K - 1) alpha + 2 (K - 1) / K 4 P beta + (K - 1) / K P gamma

where s is the time of forward and backward pass of a sequence, o that of the optimizer for a
parameter (all processes do it in full), and gamma that of adding two numbers. C is the exchange of
gradients: each process sends a slice of a Kth to each of the K - 1 others and adds up what it gets
(pairwise exchange), and then all slices go round (ring). The vector goes in m pieces, as
``electra_ref.slices`` sends it; r is 1 if a few numbers are left, which every process sends to all
others, and 0 if K divides P. C(1) = 0, and the efficiency is T(1) / (K T(K)).

A pass over a corpus of N tokens takes N / (f B L) steps, where L is the length of a row and f the
part of it that is no padding.

The model leaves out: computing while gradients are sent (there is none here), processes that wait
for the slowest, several processes behind one link, switches that are slower than their links.

Source: Hockney 1994, "The communication challenge for MPP" (alpha and beta); Thakur, Rabenseifner
and Gropp 2005, "Optimization of Collective Communication Operations in MPICH", section 3 (the
model), the costs of allgather (ring) and of reduce-scatter (pairwise exchange) in section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks.electra_step import SPECIAL_TOKENS
from benchmarks.harness import print_table
from benchmarks.rivals import tokens_of
from electra_ref.config.pretraining import PretrainingConfig, resolve_config
from electra_ref.message_passing import slice_length
from electra_ref.model.objectives.table import objective_of
from electra_ref.training.pretraining.products import step_products

BYTES = 4  # of a number of the gradient
# Of two cores of an AMD EPYC (Zen 4), bfloat16 products; benchmarks/README.md, "A training step"
# and "Where a step goes". There AdamW takes 6.3 ms for 11.3 million parameters, and reads or writes
# seven numbers for each; an addition three.
MEASURED_TOKENS_PER_SECOND = {"small": 3847.0, "base": 479.0}
MEASURED_ROWS = {"small": 16, "base": 4}  # of a step
MEASURED_AT = ("max_length=128", "vocab_size=8192")
OPTIMIZER_SECONDS = 0.56e-9
ADDING_SECONDS = 3 / 7 * OPTIMIZER_SECONDS
ENTRIES = 30_522  # of the vocabulary of the original
GIGABITS = (10, 25, 100, 400)
SHOWN_GIGABITS = 25  # for the time of a step and of a pass
FILLED = 110 / 128  # of a row, in English text
SENTENCES, SENTENCE_TOKENS = 10**9, 25
LATENCY = 50e-6
PROCESSES = tuple(2**power for power in range(11))


class Network(NamedTuple):
    """What lies between any two machines."""

    alpha: float  # seconds that a message takes, however short
    beta: float  # seconds for each byte


class Work(NamedTuple):
    """A training step."""

    sequences: int
    tokens: int  # of a sequence
    sequence_seconds: float  # in one process
    parameters: int


def network_of(gigabits: float, latency: float = LATENCY) -> Network:
    """Return a network of so many gigabits a second."""
    return Network(latency, 8e-9 / gigabits)


def parameters_of(config: PretrainingConfig) -> int:
    """Return how many numbers the gradient has."""
    objective = objective_of(config)
    model = objective.model_of(config, config, SPECIAL_TOKENS)
    return sum(math.prod(spec.shape) for spec in objective.parameter_specs(model))


def flop_of_token(config: PretrainingConfig) -> float:
    """Return the FLOP of the matrix products of a step for each token, padding included."""
    return sum(product.flop for product in step_products(config)) / tokens_of(config)


def work_of(preset: str, tokens_per_second: float | None = None) -> Work:
    """Return the step of a preset, with its own batch and length.

    The default speed is what was measured with shorter rows and fewer entries, without the
    optimizer, converted by the FLOP of a token. The preset large was not measured; its products run
    at the rate of base.
    """
    config = resolve_config(preset=preset, settings=[f"vocab_size={ENTRIES}"])
    if tokens_per_second is None:
        measured = preset if preset in MEASURED_TOKENS_PER_SECOND else "base"
        then = resolve_config(preset=measured, settings=list(MEASURED_AT))
        tokens = MEASURED_ROWS[measured] * then.row_length
        computing = tokens / MEASURED_TOKENS_PER_SECOND[measured]  # seconds
        computing -= parameters_of(then) * OPTIMIZER_SECONDS
        rate = tokens * flop_of_token(then) / computing
        tokens_per_second = rate / flop_of_token(config)
    seconds = config.row_length / tokens_per_second
    return Work(config.batch_size, config.row_length, seconds, parameters_of(config))


def exchange_seconds(parameters: int, processes: int, network: Network) -> float:
    """Return C: what the processes take to add their gradients."""
    length, rest = divmod(parameters, processes)
    rounds = 2 * math.ceil(length / slice_length(processes)) + (rest > 0)
    others = (processes - 1) / processes
    sent = 2 * others * BYTES * parameters * network.beta
    adding = others * parameters * ADDING_SECONDS
    return rounds * (processes - 1) * network.alpha + sent + adding


def step_seconds(work: Work, processes: int, network: Network) -> float:
    """Return T: what a step takes. Each process needs a sequence."""
    computing = math.ceil(work.sequences / processes) * work.sequence_seconds
    alike = work.parameters * OPTIMIZER_SECONDS
    return computing + alike + exchange_seconds(work.parameters, processes, network)


def efficiency(work: Work, processes: int, network: Network) -> float:
    """Return the share of the processors' time that one process alone would need."""
    alone = step_seconds(work, 1, network)
    return alone / (processes * step_seconds(work, processes, network))


def pass_seconds(work: Work, processes: int, network: Network) -> float:
    """Return what a pass over a billion sentences takes."""
    steps = SENTENCES * SENTENCE_TOKENS / (FILLED * work.sequences * work.tokens)
    return steps * step_seconds(work, processes, network)


def model_figures(works: Mapping[str, Work], latency: float) -> list[dict[str, Any]]:
    """Return the efficiency and the time of a step for all numbers of processes and networks."""
    return [
        {
            "preset": preset,
            "processes": processes,
            "gigabits": gigabits,
            "efficiency": efficiency(work, processes, network),
            "step_seconds": step_seconds(work, processes, network),
            "pass_days": pass_seconds(work, processes, network) / 86_400,
        }
        for preset, work in works.items()
        for processes in PROCESSES
        if processes <= work.sequences
        for gigabits in GIGABITS
        for network in [network_of(gigabits, latency)]
    ]


def print_model(works: Mapping[str, Work], figures: Iterable[Mapping[str, Any]]) -> None:
    """Print a table for each preset: efficiency in percent."""
    found = {(one["preset"], one["processes"], one["gigabits"]): one for one in figures}
    for preset, work in works.items():
        speed = work.tokens / work.sequence_seconds
        print(
            f"\nmodel, {preset}: {work.parameters:,} parameters, batch {work.sequences}, length "
            f"{work.tokens}, {speed:,.0f} tokens/s in one process; efficiency in %; at "
            f"{SHOWN_GIGABITS} Gb/s, seconds a step and days for a billion sentences"
        )
        rows = [
            [
                str(processes),
                *(
                    f"{100 * found[preset, processes, gigabits]['efficiency']:.0f}"
                    for gigabits in GIGABITS
                ),
                f"{found[preset, processes, SHOWN_GIGABITS]['step_seconds']:,.2f}",
                f"{found[preset, processes, SHOWN_GIGABITS]['pass_days']:,.1f}",
            ]
            for processes in PROCESSES
            if (preset, processes, SHOWN_GIGABITS) in found
        ]
        header = ["processes", *(f"{gigabits} Gb/s" for gigabits in GIGABITS), "s/step", "days"]
        print_table(header, rows)
