"""The rival that is fine-tuned: transformers' ElectraForSequenceClassification, our weights.

These choices make it faster: AdamW is PyTorch's fused one, gradients are clipped tensor list by
tensor list (foreach), their memory is let go between steps, answers are given in
``torch.inference_mode``. ``torch.compile`` gets one code for each padded length, since with dynamic
shapes it is slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.finetuning import (
    LABELS,
    LONGEST,
    MULTIPLE,
    Pair,
    Reading,
    drawn_parameters,
    model_of,
    stepper,
)
from benchmarks.pytorch_electra import huggingface_config
from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.config.finetuning import FinetuningConfig
from electra_ref.config.model import discriminator_size
from electra_ref.model.labelled import HEAD, LabelledBatch
from electra_ref.training.huggingface.names import encoder_tensors
from electra_ref.training.schedule import learning_rate

HEAD_NAMES = {"dense": "classifier.dense", "output": "classifier.out_proj"}


def prepare_transformers(
    config: FinetuningConfig,
    precision: str,
    attention: str,
    compiled: bool,
    threads: int,
) -> Callable[[Reading], dict[str, float]]:
    """Return a step of Hugging Face's classifier; weights stay float32, bfloat16 is by autocast."""
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    if compiled:
        import torch._dynamo.config as dynamo  # noqa: PLC0415  (slow to import)

        dynamo.recompile_limit = 4 * LONGEST // MULTIPLE

    def pair_with(deviation: float) -> Pair:
        sizes = huggingface_config(
            config, discriminator_size(config), attn_implementation=attention, num_labels=LABELS,
            classifier_dropout=config.head_dropout,
        )  # fmt: skip
        model: Any = transformers.ElectraForSequenceClassification(sizes)
        model.load_state_dict(weights(config, deviation))
        return _pair(config, model, precision, compiled)

    return stepper(config, pair_with)


def weights(config: FinetuningConfig, deviation: float) -> dict[str, torch.Tensor]:
    """Return the drawn parameters by the names of their class."""
    parameters = drawn_parameters(config, deviation)
    named = {t.name: t.value(parameters) for t in encoder_tensors(model_of(config).encoder)}
    for ours, theirs in HEAD_NAMES.items():
        named[f"{theirs}.weight"] = parameters[f"{HEAD}.{ours}.weight"].T
        named[f"{theirs}.bias"] = parameters[f"{HEAD}.{ours}.bias"]
    return {name: torch.from_numpy(np.ascontiguousarray(x).copy()) for name, x in named.items()}


def _pair(config: FinetuningConfig, model: Any, precision: str, compiled: bool) -> Pair:
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
    call: Any = torch.compile(model, dynamic=False) if compiled else model
    step = 0

    def run(batch: Batch, **labels: Any) -> Any:
        ids, types, mask = (torch.from_numpy(array.astype(np.int64)) for array in batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return call(input_ids=ids, token_type_ids=types, attention_mask=mask, **labels)

    def learn(batch: LabelledBatch) -> float:
        nonlocal step
        model.train()
        optimizer.param_groups[0]["lr"] = learning_rate(config, step)
        step += 1
        labels = torch.from_numpy(batch.targets.labels.astype(np.int64))
        loss = run(batch.tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip, foreach=True)
        optimizer.step()
        value: float = loss.item()
        return value

    def answer(batch: Batch) -> Array:
        model.eval()
        with torch.inference_mode():
            logits: Array = run(batch).logits.float().numpy()
        return logits

    return Pair(learn, answer)
