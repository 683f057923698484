"""What a run will need, said before it begins: memory, passes over the data, time on a processor.

Memory is that of one process: 16 bytes a parameter in float32 (itself, its gradient, Adam's two
moments), another gradient for each level of the tree that sums micro-batches, and what the forward
pass keeps for the backward pass. This is, for each sequence of T tokens of a micro-batch, about

    T (8 C + 2 F + H T)   numbers a layer,   2 V   for each position with scores of the vocabulary

and V more for each masked slot with an adversarial gradient. Scores that are computed again in the
backward pass are not kept. Of two stages, the one that keeps more counts.

A step multiplies matrices most of the time: ``products`` counts their floating-point operations.
One product is timed to learn what this processor does in a second.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.processes import ALONE, Processes
from electra_ref.text.examples import ExampleSource
from electra_ref.training.pretraining.products import NetworkPass, network_passes, run_flop
from electra_ref.training.progress import format_duration

MOST_EPOCHS = 100
FEWEST_MASKED = 1000  # the accuracy then has a standard error of one or two percent
LONG_SECONDS = 3 * 86_400  # a longer run on a processor is probably a mistake
CERTAINLY_TOO_MUCH = 1.5  # times the memory of the machine; the forecast is not that far off
PROCESS_BYTES = 200 * 2**20  # libraries and compiled kernels

_FINER = "; more text, held_out_fraction or evaluation_batches make them finer"
_LESS_MEMORY = "; raise accumulate (--set accumulate=N) or choose a smaller preset"
_FOR_A_CPU = ", and tiny is the preset for a CPU"
_SIDE = 768  # of the product that is timed
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" without a limit


class Forecast(NamedTuple):
    """What a run of a configuration will need."""

    parameters: int
    memory: int  # bytes
    epochs: float  # passes over the rows
    flop: float  # floating-point operations of all steps, in matrix products
    masked: float  # masked tokens that an evaluation sees


def forecast(
    config: PretrainingConfig,
    parameters: int,
    itemsize: int,
    training: ExampleSource,
    held_out: ExampleSource,
) -> Forecast:
    """Return what ``config`` needs for a model of ``parameters``, each of ``itemsize`` bytes.

    ``config.vocab_size`` must be known.
    """
    memory = memory_of(config, parameters, itemsize)
    flop = run_flop(config)
    epochs = config.steps * config.batch_size / training.count
    evaluated = min(1.0, config.evaluation_batches * config.batch_size / held_out.count)
    masked = config.mask_probability * evaluated * held_out.tokens
    return Forecast(parameters, memory, epochs, flop, masked)


def memory_of(config: PretrainingConfig, parameters: int, itemsize: int) -> int:
    """Return the bytes that a process needs, about."""
    sequences = config.batch_size // config.accumulate
    vectors = 3 + config.accumulate.bit_length()
    numbers = vectors * parameters + sequences * _kept_numbers(config)
    return int(itemsize * numbers) + PROCESS_BYTES


def require_memory(
    config: PretrainingConfig,
    parameters: int,
    itemsize: int,
    processes: Processes = ALONE,
    *,
    resumed: bool = False,
) -> None:
    """Raise UserError if the memory of the machine is far too small: the system would end the run.

    The ``processes`` on this machine share it.

    The message proposes the least ``accumulate`` with which a new run fits.
    """
    available = memory_of_machine() // processes.local_size
    needed = memory_of(config, parameters, itemsize)
    if needed <= CERTAINLY_TOO_MUCH * available:
        return
    for accumulate in range(config.accumulate + 1, config.batch_size + 1):
        if config.batch_size % accumulate == 0:
            smaller = dataclasses.replace(config, accumulate=accumulate)
            if memory_of(smaller, parameters, itemsize) < available:
                advice = f"--set accumulate={accumulate} gives the same result in less"
                break
    else:
        advice = "choose a smaller preset, or a smaller max_length"
    if resumed:
        advice = "resume it on a machine with more"
    raise UserError(
        f"this needs about {_format_bytes(needed)} of memory, and there are "
        f"{_format_bytes(available)}; {advice}"
    )


def describe(
    config: PretrainingConfig,
    needs: Forecast,
    processes: Processes = ALONE,
    *,
    on_gpu: bool,
    resumed: bool = False,
) -> Iterator[str]:
    """Yield one line about ``needs``, and one for each thing that is probably a mistake.

    ``needs`` are those of each of the ``processes``, and they share the time. In a run that is
    ``resumed`` some settings cannot change; they are not proposed.
    """
    yield (
        f"model: {needs.parameters:,} parameters, about {_format_bytes(needs.memory)} of memory"
        f"{' for each process' if processes.size > 1 else ''}; "
        f"{config.steps:,} steps see the data {needs.epochs:,.1f} times"
    )
    if needs.epochs > MOST_EPOCHS:
        yield (
            f"warning: the data are seen {needs.epochs:,.0f} times; more text, or fewer steps "
            "(--set steps=N), is better spent"
        )
    if config.warmup_steps >= config.steps:
        yield (
            f"warning: warmup_steps = {config.warmup_steps:,} is not below steps = "
            f"{config.steps:,}: the learning rate never reaches its peak"
        )
    if needs.masked < FEWEST_MASKED:
        yield (
            f"warning: an evaluation sees about {needs.masked:,.0f} masked tokens, so its figures "
            f"are rough{'' if resumed else _FINER}"
        )
    if on_gpu:
        return
    if needs.memory > (available := memory_of_machine() // processes.local_size):
        yield (
            f"warning: this needs about {_format_bytes(needs.memory)} of memory, and there are "
            f"{_format_bytes(available)}{'' if resumed else _LESS_MEMORY}"
        )
    seconds = needs.flop / (products_per_second() * processes.size)
    if seconds > LONG_SECONDS:
        yield (
            f"warning: {config.steps:,} steps take about {format_duration(seconds)} on this "
            "processor; --max-minutes or --set steps=N end sooner"
            f"{'' if resumed or config.preset == 'tiny' else _FOR_A_CPU}"
        )


def products_per_second() -> float:
    """Return how many floating-point operations a second a float32 matrix product does here."""
    left = np.ones((_SIDE, _SIDE), np.float32)
    seconds = []
    for _ in range(4):  # the first wakes the threads
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    return 2 * float(_SIDE) ** 3 / min(seconds)


def memory_of_machine() -> int:
    """Return the bytes of memory of this machine, or of the container that limits it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(memory, int(_CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return memory


def _kept_numbers(config: PretrainingConfig) -> int:
    """Return how many numbers the forward pass of one sequence keeps, in the larger stage."""
    stages = {0, config.two_stage_steps}
    return max(
        sum(_kept_by(config, each) for each in network_passes(config, step) if each.trained)
        for step in stages
    )


def _kept_by(config: PretrainingConfig, part: NetworkPass) -> int:
    size = part.size
    token = 8 * size.hidden_size + 2 * size.intermediate_size
    layer = part.length * (token + size.num_attention_heads * part.length)
    scores = part.slots + (0 if part.scores_again else 2 * part.words)
    return size.num_hidden_layers * layer + config.vocab_size * scores


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
