"""The list of rivals that read texts, and the program of each."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.choosing import chosen, not_installed
from benchmarks.electra_step import open_rival
from benchmarks.turns import Program
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError

OURS, TRANSFORMERS = "electra_ref", "transformers"


class Rival(NamedTuple):
    """One way to read texts.

    ``attention`` is transformers' implementation of it; ``autocast`` keeps weights in float32 that
    are otherwise in bfloat16, too; ``compiled`` is torch.compile's.
    """

    name: str
    program: str  # OURS or TRANSFORMERS
    precision: str
    attention: str = ""
    autocast: bool = False
    compiled: bool = False


OUR_BFLOAT16 = Rival("cpu-bfloat16", OURS, "bfloat16")
RIVALS = (
    Rival("cpu-float32", OURS, "float32"),
    OUR_BFLOAT16,
    Rival("eager-float32", TRANSFORMERS, "float32", "eager"),
    Rival("sdpa-float32", TRANSFORMERS, "float32", "sdpa"),
    Rival("sdpa-float32-compiled", TRANSFORMERS, "float32", "sdpa", compiled=True),
    Rival("eager-bfloat16", TRANSFORMERS, "bfloat16", "eager"),
    Rival("sdpa-bfloat16", TRANSFORMERS, "bfloat16", "sdpa"),
    Rival("sdpa-bfloat16-autocast", TRANSFORMERS, "bfloat16", "sdpa", autocast=True),
    Rival("sdpa-bfloat16-compiled", TRANSFORMERS, "bfloat16", "sdpa", compiled=True),
)


def rivals_of(names: list[str] | None) -> list[Rival]:
    """Return the rivals with these names.

    None means the default ones that can run here, ["all"] all that can run here. By default
    transformers' bfloat16 is timed where this project has it. Raises UserError for a name that is
    unknown or given twice, and for a rival that cannot run here.
    """
    skipped = set() if why_not(OUR_BFLOAT16) is None else {"bfloat16"}
    return chosen(
        RIVALS, names, why_not, lambda rival: not rival.compiled and rival.precision not in skipped
    )


def why_not(rival: Rival) -> str | None:
    """Return why ``rival`` cannot run here, or None if it can."""
    if rival.program == TRANSFORMERS:
        return not_installed(("torch", "transformers"))
    try:
        open_rival("cpu", rival.precision)
    except UserError as error:
        return str(error)
    return None


def program_of(rival: Rival, config: PretrainingConfig, threads: int) -> Program:
    """Return the program that the process of ``rival`` runs."""
    if rival.program == OURS:
        arguments = {"config": config, "device": "cpu", "precision": rival.precision}
        return Program("benchmarks.prediction", "prepare_electra_ref", arguments)
    options = {
        "config": config,
        "precision": rival.precision,
        "attention": rival.attention,
        "autocast": rival.autocast,
        "compiled": rival.compiled,
        "threads": threads,
    }
    return Program(
        "benchmarks.transformers_prediction", "prepare_transformers", options, is_ours=False
    )
