"""Samples of what both networks do: original, masked, generated and flagged tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from electra_ref.backends import Backend
from electra_ref.model.objectives.output import Output
from electra_ref.sampling import corrupt
from electra_ref.terminal_text import cell, columns_of

SAMPLES = 4  # rows that an evaluation keeps
_RED, _GREEN, _YELLOW, _DIM, _PLAIN = "\33[31m", "\33[32m", "\33[33m", "\33[2m", "\33[0m"


def describe_samples(
    backend: Backend, output: Output, vocabulary: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the first rows of ``output`` as one JSON object each, a list entry a token.

    ``original`` and ``masked`` are tokens. ``generated`` has the samples at the masked positions,
    or, where an objective draws none, ``guessed`` has the best guesses. Where tokens are detected,
    ``replaced`` says whether a generated token differs from the original, and ``probability`` what
    the discriminator says of it.
    """
    batch = output.masked.batch
    rows = min(SAMPLES, batch.input_ids.shape[0])
    ids = {"original": batch.input_ids, "masked": output.masked.masked_ids}
    if output.corrupted is not None:
        ids["generated"] = output.corrupted.corrupted_ids
    elif output.guesses is not None:
        best = backend.to_host(output.guesses.logits.argmax(axis=-1))
        ids["guessed"] = corrupt(output.masked, best).corrupted_ids
    lengths = batch.attention_mask[:rows].sum(axis=1)
    samples: list[dict[str, Any]] = [
        {name: [vocabulary[token] for token in of[row, :length]] for name, of in ids.items()}
        for row, length in enumerate(lengths)
    ]
    if output.detections is not None and output.corrupted is not None:
        read = output.detections.read
        logits = backend.to_host(output.detections.logits).reshape(read.replaced.shape)
        logits = np.take_along_axis(logits, read.places, axis=1).astype(np.float64)
        for row, length in enumerate(lengths):
            samples[row]["replaced"] = output.corrupted.replaced[row, :length].tolist()
            probability = 0.5 * (1.0 + np.tanh(0.5 * logits[row, :length]))
            samples[row]["probability"] = [round(p, 4) for p in probability.tolist()]
    return samples


LEGEND = "^ replaced and flagged (green), - replaced and missed (red), ? false alarm (yellow)"


def format_sample(sample: dict[str, Any], *, colour: bool, columns: int) -> str:
    """Return ``sample`` as aligned lines, cut to ``columns`` of a terminal."""
    names: list[str] = [
        name for name in ("original", "masked", "generated", "guessed") if name in sample
    ]
    lines: dict[str, list[str]] = {name: [] for name in names}
    verdicts = verdicts_of(sample)
    if verdicts:
        lines["flagged"] = []
    room = columns - len("generated")
    for place, tokens in enumerate(zip(*(sample[name] for name in names), strict=True)):
        cells = [cell(token) for token in tokens]
        width = max(map(columns_of, cells))
        room -= 1 + width
        if room < 0:
            break
        texts = {name: _padded(text, width) for name, text in zip(names, cells, strict=True)}
        if verdicts:
            sign = verdicts[place]
            paint = {"^": _GREEN, "-": _RED, "?": _YELLOW}.get(sign, "") if colour else ""
            plain = _PLAIN if paint else ""
            texts["flagged"] = _padded(sign * columns_of(cells[-1]), width)
            for name in (names[-1], "flagged"):
                texts[name] = f"{paint}{texts[name]}{plain}"
        for name, text in texts.items():
            lines[name].append(text)
    dim, plain = (_DIM, _PLAIN) if colour else ("", "")
    return "\n".join(
        f"{dim}{name:>9}{plain} {' '.join(tokens).rstrip()}" for name, tokens in lines.items()
    )


def verdicts_of(sample: dict[str, Any]) -> list[str]:
    """Return the sign of each token, see LEGEND; none where nothing is detected."""
    signs = {(True, True): "^", (True, False): "-", (False, True): "?"}
    pairs = zip(sample.get("replaced", ()), sample.get("probability", ()), strict=True)
    return [signs.get((replaced, probability > 0.5), " ") for replaced, probability in pairs]


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - columns_of(text))
