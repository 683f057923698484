"""The rival that reads texts: transformers' ElectraForPreTraining, with this project's weights.

These choices make it faster: ``torch.inference_mode``; its own fused attention (sdpa); for
bfloat16 both weights in bfloat16 and autocast are tried; ``torch.compile`` has weights frozen, so
that it packs them once, and one code for all shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.prediction import Reading, discriminator_parameters, reader
from benchmarks.pytorch_electra import huggingface_config
from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.config.model import discriminator_size
from electra_ref.config.pretraining import PretrainingConfig
from tests.oracle.huggingface_weights import to_huggingface


def prepare_transformers(
    config: PretrainingConfig,
    precision: str,
    attention: str,
    autocast: bool,
    compiled: bool,
    threads: int,
) -> Callable[[Reading], dict[str, float]]:
    """Return a step that reads texts with Hugging Face's discriminator."""
    torch.set_num_threads(threads)
    size = discriminator_size(config)
    sizes = huggingface_config(config, size, attn_implementation=attention)
    model: Any = transformers.ElectraForPreTraining(sizes)
    model.eval()
    weights = to_huggingface(config, discriminator_parameters(config), "discriminator")
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    if precision == "bfloat16" and not autocast:
        model = model.to(torch.bfloat16)
    logits: Any = model
    if compiled:
        import torch._inductor.config as inductor  # noqa: PLC0415  (slow to import)

        inductor.freezing = True
        logits = torch.compile(model, dynamic=True)

    def logits_of(batch: Batch) -> Array:
        ids, types, mask = (torch.from_numpy(array.astype(np.int64)) for array in batch)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = logits(input_ids=ids, token_type_ids=types, attention_mask=mask)
        found: Array = outputs.logits.float().numpy()
        return found

    return reader(config, logits_of)
