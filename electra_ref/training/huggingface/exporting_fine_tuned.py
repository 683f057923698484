"""Writes a fine-tuned model as a directory that transformers loads: see ``exporting``.

The class is that of the model's kind of head. A head in the form ``huggingface`` computes what that
class computes. Of the original's heads only the one for tags does: dropout apart, which prediction
does not have, it is the same linear map.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.model.objectives import fine_tuning
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.finetuning.tasks.classification import ClassificationConfig
from electra_ref.training.huggingface.configuration import OWN, configuration_of
from electra_ref.training.huggingface.exporting import numbers_in, write_files
from electra_ref.training.huggingface.fine_tuned import own_settings
from electra_ref.training.huggingface.fine_tuned_card import fine_tuned_card
from electra_ref.training.huggingface.head_configuration import head_keys
from electra_ref.training.huggingface.model_card import CARD, figures_of
from electra_ref.training.huggingface.names import TASK_CLASSES, fine_tuned_tensors
from electra_ref.training.huggingface.tokenizer_files import tokenizer_files
from electra_ref.training.new_folder import new_folder
from electra_ref.training.saved_model import read_parameters


class WrittenTask(NamedTuple):
    """A fine-tuned model that was written."""

    path: Path
    architecture: str  # the class in transformers
    parameters: int
    step: int
    was_rounded: bool  # from float64


def export_fine_tuned(
    stored: StoredTask, source: Path, target: Path, check: Callable[[], None] = lambda: None
) -> WrittenTask:
    """Write ``stored``, the model at ``source``, to the new or empty folder ``target``.

    ``check`` is called before each tensor and may raise to stop. Raises UserError if there is no
    class for its head, if it cannot be read, or if ``target`` cannot be written; then nothing is
    left there.
    """
    model, settings, special = stored.model, stored.settings, stored.tokenizer.special_tokens
    task_class = TASK_CLASSES[model.head.kind]
    if model.head.form not in task_class.forms:
        raise UserError(
            f"the model in {source} has the head {model.head.form!r} for {model.head.kind}, which "
            "no class of transformers has; one that was fine-tuned with --head huggingface can be "
            "written"
        )
    check()
    specs = fine_tuning.parameter_specs(model)
    parameters, step = read_parameters(stored, specs, "float32", source)
    figures = None if stored.run is None else figures_of(stored.run, step)
    tensors = fine_tuned_tensors(model)
    keys = {
        **configuration_of(settings, model.encoder.size, "discriminator", special.pad),
        **head_keys(model.head, stored.labels, label_sets=_has_label_sets(settings)),
        OWN: own_settings(settings),
    }
    words = tokenizer_files(
        stored.tokenizer.vocab,
        lowercase=settings.lowercase,
        strip_accents=settings.strips_accents,
        longest_row=settings.max_length,
    )
    count = numbers_in(tensors)
    card = fine_tuned_card(model, settings, count, step, figures)
    with new_folder(target) as folder, disk_errors(f"write {target}"):
        write_files(folder, keys, {CARD: card, **words}, tensors, parameters, check)
    was_rounded = settings.precision == "float64"
    return WrittenTask(target, task_class.name, count, step, was_rounded)


def _has_label_sets(settings: FinetuningConfig) -> bool:
    """Return whether a text may have several labels, or none."""
    return isinstance(settings, ClassificationConfig) and settings.multi_label
