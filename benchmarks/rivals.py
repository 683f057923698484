"""The list of rivals that take a training step, and how they are timed.

A rival is data. ``turns`` starts its process, warms it up and times it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.choosing import chosen, not_installed
from benchmarks.electra_step import SPECIAL_TOKENS, open_rival
from benchmarks.turns import Program, Turn, take_turns
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.masking import masked_slots

OURS, PYTORCH = "electra_ref", "pytorch"


class Rival(NamedTuple):
    """One way to take a training step. ``compiled`` is torch.compile's."""

    name: str
    program: str  # OURS or PYTORCH
    device: str
    precision: str
    compiled: bool = False
    default: bool = True  # timed without --rivals, if it can run here


RIVALS = (
    Rival("cpu-float32", OURS, "cpu", "float32"),
    Rival("cpu-bfloat16", OURS, "cpu", "bfloat16"),
    Rival("reference-float32", OURS, "reference", "float32"),
    Rival("gpu-float32", OURS, "gpu", "float32"),
    Rival("pytorch-float32", PYTORCH, "cpu", "float32"),
    Rival("pytorch-bfloat16", PYTORCH, "cpu", "bfloat16"),
    Rival("pytorch-float32-compiled", PYTORCH, "cpu", "float32", True, default=False),
    Rival("pytorch-bfloat16-compiled", PYTORCH, "cpu", "bfloat16", True, default=False),
)


def rivals_of(names: list[str] | None) -> list[Rival]:
    """Return the rivals with these names.

    None means the default ones that can run here, ["all"] all that can run here. Raises UserError
    for a name that is unknown or given twice, and for a rival that cannot run here.
    """
    return chosen(RIVALS, names, why_not, lambda rival: rival.default)


def our_own(rivals: list[Rival]) -> list[Rival]:
    """Return the rivals of this project. Raises UserError if there are none."""
    ours = [rival for rival in rivals if rival.program == OURS]
    if not ours:
        raise UserError("--rivals: only this project's own backends can be looked into; name one")
    return ours


def why_not(rival: Rival) -> str | None:
    """Return why ``rival`` cannot run here, or None if it can."""
    if rival.program == PYTORCH:
        return not_installed(("torch", "transformers"))
    try:
        open_rival(rival.device, rival.precision)
    except UserError as error:
        return str(error)
    return None


def program_of(rival: Rival, config: PretrainingConfig, threads: int) -> Program:
    """Return the program that the process of ``rival`` runs."""
    shared = {"config": config, "precision": rival.precision}
    if rival.program == OURS:
        arguments = {**shared, "device": rival.device}
        return Program("benchmarks.electra_step", "prepare_electra_ref", arguments)
    arguments = {
        **shared,
        "masked_slots": masked_slots(config.max_length, config.mask_probability),
        "special_tokens": SPECIAL_TOKENS,
        "compiled": rival.compiled,
        "threads": threads,
    }
    return Program("benchmarks.pytorch_electra", "prepare_pytorch", arguments, is_ours=False)


def tokens_of(config: PretrainingConfig) -> int:
    """Return the tokens of a step, padding included."""
    return config.batch_size * config.row_length


def measure(
    programs: Mapping[str, Program],
    rounds: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
) -> dict[str, list[Turn]]:
    """Return the timed turns of each program, without the warm-up at the start of ``rounds``."""
    number = itertools.count(1)

    def on_round(turns: Sequence[Turn]) -> None:
        seconds = ", ".join(
            f"{name} {turn.seconds:.2f} s" for name, turn in zip(programs, turns, strict=True)
        )
        print(f"round {next(number)} of {len(rounds)}: {seconds}", file=sys.stderr)

    turns = take_turns(programs, rounds, options.threads, on_round)
    return {name: taken[options.warmup :] for name, taken in turns.items()}


def ratios(turns: Sequence[Turn], others: Sequence[Turn]) -> list[float]:
    """Return the seconds of ``turns`` divided by those of ``others``, round by round."""
    return [turn.seconds / other.seconds for turn, other in zip(turns, others, strict=True)]
