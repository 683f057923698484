"""Fine-tuned models in the Hugging Face format."""

from __future__ import annotations

from pathlib import Path

from electra_ref.errors import UserError
from electra_ref.training.finetuning.stored import StoredTask


def is_fine_tuned(path: Path) -> bool:
    """Return whether the directory ``path`` holds a model with a task head."""
    del path
    return False


def open_fine_tuned(path: Path) -> StoredTask:
    """Return what is known of the model in the directory ``path``. Raises UserError."""
    raise UserError(f"{path} holds no fine-tuned model")
