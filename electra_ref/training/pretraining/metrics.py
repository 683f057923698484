"""What is measured on held-out rows: the losses, and how well each network does its task.

MLM: ``mlm_accuracy`` is the share of masked positions where the best word of the network with the
MLM loss is the original one; ``sampled_accuracy`` is the share where its sample is. Where a
full-size encoder guesses words beside a generator, ``encoder_mlm_loss`` and
``encoder_mlm_accuracy`` are those of the encoder at the same positions, when it reads what the
generator reads: [MASK] at 85 of 100 of them, the word itself at the others. An encoder that copies
its input is right at these.
``mlm_baseline_accuracy`` is the accuracy of always answering the most frequent original word.
``generator_figures`` defines ``generator_entropy`` (of the network with the MLM loss),
``distinct_samples`` and ``distinct_originals``.

RTD, over all tokens but padding (the original counts padding in its AUC, which makes it too high):
``detection_figures`` defines its figures, ``hidden_figures`` the ``hidden_cosine`` of the
discriminator's last hidden states. An objective without one of the two tasks has none of its
figures.
Source: google-research/electra pretrain/run_pretraining.py (``metric_fn``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from electra_ref.arrays import Array
from electra_ref.backends import Backend
from electra_ref.masking import MaskedBatch
from electra_ref.model.generation import Guesses
from electra_ref.model.losses import LossTerm, add_terms, mean_losses, total_loss
from electra_ref.model.objectives.output import Detections, Output
from electra_ref.training.pretraining.detection_figures import detection_figures
from electra_ref.training.pretraining.generator_figures import (
    distinct_tokens,
    entropy_sum,
    mean_entropy,
)
from electra_ref.training.pretraining.hidden_figures import UnitSum, mean_cosine, unit_sum

Metrics = dict[str, float | None]


class Guessed(NamedTuple):
    """What a network guessed in one micro-batch, and what was right."""

    labels: Array  # (used slots,)
    best: Array  # (used slots,)
    loss: float  # summed
    entropy: float  # summed


class Measured(NamedTuple):
    """What is kept of the output for one micro-batch, on the host; None where it has no such part.

    All figures follow from it: whoever computed the outputs, they are the same.
    """

    terms: tuple[LossTerm, ...]
    mlm: Guessed | None
    encoder_mlm: Guessed | None
    samples: tuple[Array, Array] | None  # at the used slots: what was sampled, what was right
    detected: tuple[Array, Array, Array] | None  # of each token: replaced, masked, logit
    hidden: UnitSum | None


def measure(backend: Backend, output: Output) -> Measured:
    """Return what the metrics need of ``output``."""
    masked, detections = output.masked, output.detections
    mlm, encoder_mlm = (
        None if guesses is None else _guessed(backend, masked, guesses)
        for guesses in (output.guesses, output.encoder_guesses)
    )
    samples = None
    if output.corrupted is not None:
        samples = output.corrupted.sampled_ids[masked.weights], masked.labels[masked.weights]
    return Measured(
        tuple(term._replace(sum=float(term.sum)) for term in output.terms),
        mlm,
        encoder_mlm,
        samples,
        None if detections is None else _answers_of(backend, detections),
        None if detections is None else unit_sum(_hidden_of(backend, detections)),
    )


def metrics_of(parts: Sequence[Measured]) -> Metrics:
    """Return the metrics of all ``parts`` taken together; None where one is undefined.

    Raises ValueError if there is none, and FloatingPointError if the loss is not finite.
    """
    if not parts:
        raise ValueError("there is nothing to evaluate")
    total = add_terms(part.terms for part in parts)
    loss = float(total_loss(total))
    if not math.isfinite(loss):
        raise FloatingPointError(f"held-out loss {loss}")
    metrics: Metrics = {"loss": loss, **mean_losses(total)}
    for name, guesses in (
        ("mlm", [part.mlm for part in parts if part.mlm is not None]),
        ("encoder_mlm", [part.encoder_mlm for part in parts if part.encoder_mlm is not None]),
    ):
        if guesses:
            metrics |= _guess_figures(name, guesses, has_loss=f"{name}_loss" in metrics)
    if samples := [part.samples for part in parts if part.samples is not None]:
        metrics |= _sample_figures(*map(np.concatenate, zip(*samples, strict=True)))
    if tokens := [part.detected for part in parts if part.detected is not None]:
        metrics |= detection_figures(*map(np.concatenate, zip(*tokens, strict=True)))
        metrics["hidden_cosine"] = mean_cosine([p.hidden for p in parts if p.hidden is not None])
    return metrics


def _guessed(backend: Backend, masked: MaskedBatch, guesses: Guesses) -> Guessed:
    used = masked.weights
    best = backend.to_host(guesses.logits.argmax(axis=-1)).reshape(used.shape)
    entropy = entropy_sum(guesses.logits[backend.to_device(used.reshape(-1))])
    return Guessed(masked.labels[used], best[used], float(guesses.loss), entropy)


def _guess_figures(name: str, parts: Sequence[Guessed], *, has_loss: bool) -> Metrics:
    """Return the figures of the network ``name``; the entropy is that of "mlm" alone."""
    labels, best = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:2])
    count = max(labels.size, 1)
    figures: Metrics = {
        f"{name}_accuracy": int((best == labels).sum()) / count,
        "mlm_baseline_accuracy": np.bincount(labels).max(initial=0) / count,
    }
    if not has_loss:
        figures[f"{name}_loss"] = sum(part.loss for part in parts) / count
    if name == "mlm":
        figures["generator_entropy"] = mean_entropy(sum(p.entropy for p in parts), labels.size)
    return figures


def _sample_figures(samples: Array, labels: Array) -> Metrics:
    hits = int((samples == labels).sum())
    return {"sampled_accuracy": hits / max(labels.size, 1), **distinct_tokens(samples, labels)}


def _answers_of(backend: Backend, detections: Detections) -> tuple[Array, Array, Array]:
    """Return which tokens are replaced and which masked, and the logits of all."""
    read = detections.read
    is_token = read.batch.attention_mask
    logits = backend.to_host(detections.logits).reshape(is_token.shape)
    return read.replaced[is_token], read.is_masked[is_token], logits[is_token]


def _hidden_of(backend: Backend, detections: Detections) -> Array:
    """Return the hidden states of all tokens but padding, (n, C) on the host."""
    return backend.to_host(detections.hidden)[detections.read.batch.attention_mask.reshape(-1)]


_LOSSES = {
    "mlm_loss": "MLM {:.3f}",
    "rtd_loss": "RTD {:.4f}",
    "replace_mlm_loss": "Replace MLM {:.3f}",
    "all_tokens_loss": "all tokens {:.4f}",
}
_ACCURACIES = {
    "mlm_accuracy": "MLM accuracy {:.3f}",
    "encoder_mlm_accuracy": "encoder MLM accuracy {:.3f}",
}


def summary(metrics: Metrics) -> str:
    """Return the figures of an evaluation as one line for people."""
    figures = {name: math.nan if value is None else value for name, value in metrics.items()}
    losses = [text.format(figures[key]) for key, text in _LOSSES.items() if key in figures]
    parts = [f"held-out loss {figures['loss']:.2f} ({', '.join(losses)})"]
    parts += [text.format(figures[key]) for key, text in _ACCURACIES.items() if key in figures]
    if len(parts) > 1:
        parts[1] += f" (most frequent token {figures['mlm_baseline_accuracy']:.3f})"
    if "rtd_auc" in figures:
        all_original = 1.0 - figures["replaced_share"]
        masked = figures.get("rtd_masked_auc", math.nan)
        at_masked = "" if math.isnan(masked) else f" (masked tokens {masked:.3f})"
        parts.append(f"RTD AUC {figures['rtd_auc']:.3f}{at_masked}")
        parts.append(f"accuracy {figures['rtd_accuracy']:.3f} (all original {all_original:.3f})")
    return ", ".join(parts)
