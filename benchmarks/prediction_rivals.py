"""The list of rivals that read texts, and the program of each."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.electra_step import open_rival
from benchmarks.rivals import ALL
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


RIVALS = (
    Rival("cpu-float32", OURS, "float32"),
    Rival("cpu-bfloat16", OURS, "bfloat16"),
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
    known = {rival.name: rival for rival in RIVALS}
    if names == [ALL]:
        return [rival for rival in RIVALS if why_not(rival) is None]
    if names is None:
        skipped = set() if why_not(known["cpu-bfloat16"]) is None else {"bfloat16"}
        able = [rival for rival in RIVALS if why_not(rival) is None and not rival.compiled]
        return [rival for rival in able if rival.precision not in skipped]
    for name in names:
        if name not in known:
            raise UserError(f"--rivals {name}: none of {', '.join(known)}; or {ALL} alone")
        if names.count(name) > 1:
            raise UserError(f"--rivals {name}: given twice")
        if (reason := why_not(known[name])) is not None:
            raise UserError(f"--rivals {name}: {reason}")
    return [known[name] for name in names]


def why_not(rival: Rival) -> str | None:
    """Return why ``rival`` cannot run here, or None if it can."""
    if rival.program == TRANSFORMERS:
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        return f"{' and '.join(missing)} not installed (extra: oracle)" if missing else None
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
