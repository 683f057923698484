"""The model card, ``README.md``: what a network is, how it was trained, how to load it.

It holds numbers, and words that the settings allow, so nothing in it comes from a text or names a
folder of this machine.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from electra_ref import __version__
from electra_ref.config.model import EncoderConfig, EncoderSize
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.training.huggingface.configuration import CLASSES
from electra_ref.training.records import read_records
from electra_ref.training.run_directory import IMPORTED, RunDirectory

CARD = "README.md"
OTHER_ORIGIN = f"Written by electra_ref {__version__} from a model of other origin."
_TASKS = {
    "discriminator": "It tells, for each token of a text, whether it was replaced by another one: "
    "a positive logit says so. Fine-tuning begins with this network.",
    "generator": "It guesses the words behind [MASK].",
}
_PAIRED = (
    "It reads a text twice in one row, [CLS] original [SEP] replaced [SEP], and tells, for each "
    "token of the second half, whether it was replaced by another one: a positive logit says so. "
    "Fine-tuning begins with this network."
)
_SETTINGS = (
    "objective", "sharing", "discriminator_input", "steps", "batch_size", "max_length",
    "learning_rate", "mask_probability", "lowercase", "strip_accents",
)  # fmt: skip
_COUNTS = ("files", "documents", "sentences", "bytes", "tokens")  # of data.json
_KEY = re.compile(r"[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a run knows of itself."""

    evaluation: Mapping[str, float]  # the last one on held-out rows, with its ``step``
    data: Mapping[str, int]  # counts of what was read


def figures_of(run: RunDirectory, step: int) -> Figures | None:
    """Return the figures of ``run`` up to ``step``; None if it was never trained.

    Those that cannot be read are left out. Raises UserError if its marker cannot be read.
    """
    if IMPORTED in run.environment():
        return None
    evaluation: dict[str, Any] = {}
    with suppress(UserError):
        for record in read_records(run.metrics):
            if record.get("split") == "held_out" and record["step"] <= step:
                evaluation = record
    data: Any = {}
    with suppress(OSError, ValueError, RecursionError):
        data = json.loads(run.data.read_bytes())
    counts = data if isinstance(data, dict) else {}
    return Figures(
        {key: value for key, value in evaluation.items() if _is_figure(key, value)},
        {key: counts[key] for key in _COUNTS if type(counts.get(key)) is int},
    )


def loading_lines(folder: str, architecture: str) -> list[str]:
    """Return two lines of Python that load a network of a class, and its tokenizer."""
    kinds = f"{architecture.replace('Electra', 'AutoModel', 1)}, AutoTokenizer"
    return [
        f"from transformers import {kinds}",
        f"model, tokenizer = (kind.from_pretrained({folder!r}) for kind in ({kinds}))",
    ]


def model_card(
    part: str,
    config: PretrainingConfig,
    size: EncoderSize,
    parameters: int,
    step: int,
    figures: Figures | None,
) -> str:
    """Return the card of one network with so many ``parameters``, as it was at ``step``.

    ``figures`` is None where the network comes from no run of ours.
    """
    return "\n".join(_lines(part, config, size, parameters, step, figures)) + "\n"


def _task(part: str, config: PretrainingConfig) -> str:
    is_paired = part == "discriminator" and config.reads_pairs
    return _PAIRED if is_paired else _TASKS[part]


def _lines(
    part: str,
    config: PretrainingConfig,
    size: EncoderSize,
    parameters: int,
    step: int,
    figures: Figures | None,
) -> Iterator[str]:
    yield from ("---", "library_name: transformers")
    if part == "generator":
        yield "pipeline_tag: fill-mask"
    yield from ("tags:", "- electra", "---", "", f"# ELECTRA {part}", "", _task(part, config), "")
    yield from ("```python", *loading_lines("path/of/this/folder", CLASSES[part]), "```", "")
    yield from size_lines(config, size, parameters)
    if figures is None:
        yield OTHER_ORIGIN
        return
    yield from ("## Training", "")
    yield f"Pre-trained by electra_ref {__version__} up to step {step:,}."
    yield ""
    yield from table_lines(("setting", "value"), {key: getattr(config, key) for key in _SETTINGS})
    if figures.data:
        yield from ("## Data", "")
        yield from table_lines(("read", "count"), figures.data)
    if figures.evaluation:
        yield from ("## Held-out figures", "")
        yield from table_lines(("figure", "value"), figures.evaluation)


def size_lines(config: EncoderConfig, size: EncoderSize, parameters: int) -> Iterator[str]:
    """Yield the section of a card with the sizes of a network."""
    yield from ("## Sizes", "")
    sizes = {
        "parameters": parameters,
        "vocab_size": config.vocab_size,
        "embedding_size": config.embedding_size,
        **dataclasses.asdict(size),
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
    }
    yield from table_lines(("size", "value"), sizes)


def table_lines(heads: Sequence[str], rows: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of two columns with these ``heads``."""
    yield f"| {' | '.join(heads)} |"
    yield "|---|---|"
    for key, value in rows.items():
        yield f"| {key} | {_shown(value)} |"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_figure(key: str, value: Any) -> bool:
    return _KEY.fullmatch(key) is not None and type(value) in (int, float)
