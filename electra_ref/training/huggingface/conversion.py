"""Converts a model of any kind to the other format, as ``python -m electra_ref.convert`` does.

from                          to the Hugging Face format      to a run
a run, or a checkpoint        exporting                       (it is one)
a fine-tuned run              exporting_fine_tuned            (it is one)
a directory in the format     exporting                       importing
one with a head for a task    exporting_fine_tuned            importing_fine_tuned
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from electra_ref.errors import UserError
from electra_ref.training.finetuning.saved import find_fine_tuned, holds_fine_tuned
from electra_ref.training.huggingface.configuration import CLASSES
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.huggingface.exporting_fine_tuned import export_fine_tuned
from electra_ref.training.huggingface.importing import import_model
from electra_ref.training.huggingface.importing_fine_tuned import import_fine_tuned
from electra_ref.training.huggingface.model_card import loading_lines
from electra_ref.training.huggingface.opening import is_huggingface
from electra_ref.training.run_directory import is_run
from electra_ref.training.saved_model import Part

HUGGINGFACE, OURS = "huggingface", "electra-ref"
ROUNDED = "the weights are rounded from float64 to float32, which these files hold"


def convert_model(
    source: Path,
    target: Path,
    wanted: str | None,
    part: Part | None,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> list[str]:
    """Write the model at ``source`` to ``target``; return the lines that say what to do with it.

    ``wanted`` is the format, None for the one that it does not have. ``part`` is the network, None
    for all. Notes go to ``say``; ``check`` is called now and then and may raise to stop. Raises
    UserError.
    """
    theirs = not is_run(source) and is_huggingface(source)  # a run may have exports in its folder
    is_fine_tuned = holds_fine_tuned(source)
    wanted = wanted or (OURS if theirs else HUGGINGFACE)
    if wanted == OURS and not theirs:
        raise UserError(
            f"{source} holds no model in the Hugging Face format (config.json); a run of "
            "electra_ref needs no conversion to be read"
        )
    if not is_fine_tuned:
        if wanted == OURS:
            return _import(source, target, part, say, check)
        return _export(source, target, part, say, check)
    if part is not None:
        raise UserError(f"the model in {source} is fine-tuned, so it is one network: omit --part")
    if wanted == OURS:
        return _import_fine_tuned(source, target, say, check)
    return _export_fine_tuned(source, target, say, check)


def _import(
    source: Path,
    target: Path,
    part: Part | None,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> list[str]:
    done = import_model(source, target, part, check)
    for note in done.notes:
        say(note)
    name = shlex.quote(str(done.path))
    data = "--tokens FILE.npy" if done.reads_ids else "--corpus FILE"
    task = "rtd" if "discriminator" in done.parts else "mlm"
    return [
        f"{done.path}: a run at step 0 with {' and '.join(done.parts)}, {done.parameters:,} "
        "parameters; to train on for N steps, of which M warm up, or to use it:",
        f"python -m electra_ref.train --init-from {name} {data} --set steps=N --set warmup_steps=M",
        f"python -m electra_ref.predict --model {name} --task {task}",
    ]


def _import_fine_tuned(
    source: Path, target: Path, say: Callable[[str], None], check: Callable[[], None]
) -> list[str]:
    done = import_fine_tuned(source, target, check)
    for note in done.notes:
        say(note)
    name = shlex.quote(str(done.path))
    return [
        f"{done.path}: a fine-tuned run at step 0 for {done.kind}, {done.parameters:,} parameters; "
        "to use it:",
        f"python -m electra_ref.predict --model {name} --task {done.kind}",
    ]


def _export(
    source: Path,
    target: Path,
    part: Part | None,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> list[str]:
    written = export_model(source, target, part, check)
    if written[0].was_rounded:
        say(ROUNDED)
    lines = [
        f"{each.path}: {each.part}, {each.parameters:,} parameters, step {each.step:,}"
        for each in written
    ]
    return [*lines, *_how_to_load(written[0].path, CLASSES[written[0].part])]


def _export_fine_tuned(
    source: Path, target: Path, say: Callable[[str], None], check: Callable[[], None]
) -> list[str]:
    stored = find_fine_tuned(source)
    for note in stored.notes:
        say(note)
    done = export_fine_tuned(stored, source, target, check)
    if done.was_rounded:
        say(ROUNDED)
    line = f"{done.path}: {done.architecture}, {done.parameters:,} parameters, step {done.step:,}"
    return [line, *_how_to_load(done.path, done.architecture)]


def _how_to_load(path: Path, architecture: str) -> list[str]:
    return ["to load it in Python:", *loading_lines(str(path), architecture)]
