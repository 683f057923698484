"""Samples of what both networks do: original, masked, generated and flagged tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_ref.backends import Backend
from electra_ref.model.objectives.electra import ElectraOutput
from electra_ref.terminal_text import cell, columns_of

SAMPLES = 4  # rows that an evaluation keeps
_RED, _GREEN, _YELLOW, _DIM, _PLAIN = "\33[31m", "\33[32m", "\33[33m", "\33[2m", "\33[0m"


def describe_samples(
    backend: Backend, output: ElectraOutput, vocabulary: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the first rows of ``output`` as one JSON object each, a list entry a token.

    ``original``, ``masked`` and ``generated`` are tokens. ``replaced`` says whether a generated
    token differs from the original; ``probability`` is what the discriminator says of it.
    """
    corrupted = output.corrupted
    batch = corrupted.masked.batch
    logits = backend.to_host(output.discriminator_logits).reshape(batch.input_ids.shape)
    samples = []
    for row in range(min(SAMPLES, batch.input_ids.shape[0])):
        length = int(batch.attention_mask[row].sum())
        sample: dict[str, Any] = {
            name: [vocabulary[token] for token in ids[row, :length]]
            for name, ids in (
                ("original", batch.input_ids),
                ("masked", corrupted.masked.masked_ids),
                ("generated", corrupted.corrupted_ids),
            )
        }
        sample["replaced"] = corrupted.replaced[row, :length].tolist()
        probability = 0.5 * (1.0 + np.tanh(0.5 * logits[row, :length].astype(np.float64)))
        sample["probability"] = [round(p, 4) for p in probability.tolist()]
        samples.append(sample)
    return samples


LEGEND = "^ replaced and flagged (green), - replaced and missed (red), ? false alarm (yellow)"


def format_sample(sample: dict[str, Any], *, colour: bool, columns: int) -> str:
    """Return ``sample`` as four aligned lines, cut to ``columns`` of a terminal."""
    lines: dict[str, list[str]] = {"original": [], "masked": [], "generated": [], "flagged": []}
    room = columns - len("generated")
    for *tokens, replaced, probability in zip(
        *(sample[key] for key in ("original", "masked", "generated", "replaced", "probability")),
        strict=True,
    ):
        original, masked, generated = (cell(token) for token in tokens)
        width = max(map(columns_of, (original, masked, generated)))
        room -= 1 + width
        if room < 0:
            break
        verdict = {(True, True): "^", (True, False): "-", (False, True): "?"}
        sign = verdict.get((replaced, probability > 0.5), " ") * columns_of(generated)
        paint = {"^": _GREEN, "-": _RED, "?": _YELLOW}.get(sign[:1], "") if colour else ""
        plain = _PLAIN if paint else ""
        lines["original"].append(_padded(original, width))
        lines["masked"].append(_padded(masked, width))
        lines["generated"].append(f"{paint}{_padded(generated, width)}{plain}")
        lines["flagged"].append(f"{paint}{_padded(sign, width)}{plain}")
    dim, plain = (_DIM, _PLAIN) if colour else ("", "")
    return "\n".join(
        f"{dim}{name:>9}{plain} {' '.join(tokens).rstrip()}" for name, tokens in lines.items()
    )


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - columns_of(text))
