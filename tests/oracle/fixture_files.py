"""Fixture files: a model, batches, and what Hugging Face's classes answer.

    electra_<name>.safetensors
        weights.<network>.<their name>      float64, what ``named_parameters`` gives
        gradients.<network>.<their name>    float64, of the total loss on batch 0, both networks'
                                            parts in the shared tensors
        generator_logits                    float64 (B, T, V), batch 0
        discriminator_logits                float64 (B, T), batch 0
        input_ids, token_type_ids, attention_mask, masked_ids, corrupted_ids      (steps, B, T)
        positions, labels, weights, sampled_ids                                   (steps, B, M)
    electra_<name>.json
        made_by     versions
        config      sizes of the model, weights of the losses, constants of the optimizer
        mlm_loss, rtd_loss, loss            batch 0: two means, and their weighted sum
        losses, gradient_norms              of a training that takes one step a batch; before
                                            each update, the norms before clipping

``tests.make_fixtures`` writes them; NumPy is enough to read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.masking import MaskedBatch
from electra_ref.model.parameters import FlatParameters
from electra_ref.sampling import CorruptedBatch
from tests.oracle.huggingface_weights import (
    NETWORKS,
    StateDicts,
    from_huggingface,
    to_huggingface,
)

FOLDER = Path(__file__).parent.parent / "data"
CONFIG_KEYS = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "generator_hidden_size",
    "generator_layers",
    "layer_norm_eps",
    "generator_weight",
    "discriminator_weight",
    "max_length",
    "steps",
    "warmup_steps",
    "learning_rate",
    "lr_decay_power",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_clip",
)


class Answers(NamedTuple):
    """What Hugging Face's classes and autograd say; see above."""

    mlm_loss: float
    rtd_loss: float
    loss: float
    generator_logits: Array  # (B, T, V)
    discriminator_logits: Array  # (B, T)
    gradients: StateDicts
    losses: list[float]
    gradient_norms: list[float]


class Fixture(NamedTuple):
    """The contents of the two files of a name."""

    made_by: dict[str, str]
    config: PretrainingConfig
    parameters: FlatParameters
    batches: list[CorruptedBatch]
    answers: Answers


def write_fixture(folder: Path, name: str, fixture: Fixture) -> None:
    """Write the two files of ``name`` into ``folder``."""
    answers = fixture.answers
    weights = {n: to_huggingface(fixture.config, fixture.parameters, n) for n in NETWORKS}
    tensors = {
        **_flatten("weights", weights),
        **_flatten("gradients", answers.gradients),
        **_stack(fixture.batches),
        "generator_logits": answers.generator_logits,
        "discriminator_logits": answers.discriminator_logits,
    }
    numbers = {
        "made_by": fixture.made_by,
        "config": {key: getattr(fixture.config, key) for key in CONFIG_KEYS},
        "mlm_loss": answers.mlm_loss,
        "rtd_loss": answers.rtd_loss,
        "loss": answers.loss,
        "losses": answers.losses,
        "gradient_norms": answers.gradient_norms,
    }
    save_file(tensors, folder / f"electra_{name}.safetensors")
    text = json.dumps(numbers, indent=1) + "\n"
    (folder / f"electra_{name}.json").write_text(text, encoding="utf-8")


def read_fixture(folder: Path, name: str) -> Fixture:
    """Read the two files of ``name`` in ``folder``."""
    numbers: dict[str, Any] = json.loads(
        (folder / f"electra_{name}.json").read_text(encoding="utf-8")
    )
    tensors = load_file(folder / f"electra_{name}.safetensors")
    config = PretrainingConfig(**numbers["config"])
    answers = Answers(
        numbers["mlm_loss"],
        numbers["rtd_loss"],
        numbers["loss"],
        tensors["generator_logits"],
        tensors["discriminator_logits"],
        _unflatten("gradients", tensors),
        numbers["losses"],
        numbers["gradient_norms"],
    )
    parameters = from_huggingface(config, _unflatten("weights", tensors))
    return Fixture(numbers["made_by"], config, parameters, _unstack(tensors), answers)


def _flatten(kind: str, state_dicts: StateDicts) -> dict[str, Array]:
    return {
        f"{kind}.{network}.{name}": tensor
        for network, tensors in state_dicts.items()
        for name, tensor in tensors.items()
    }


def _unflatten(kind: str, tensors: dict[str, Array]) -> StateDicts:
    return {
        network: {
            name.removeprefix(f"{kind}.{network}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{kind}.{network}.")
        }
        for network in NETWORKS
    }


def _stack(batches: list[CorruptedBatch]) -> dict[str, Array]:
    """Return each array of the batches by its name, all steps in one."""
    tables = [
        {
            **corrupted.masked.batch._asdict(),
            **{k: v for k, v in corrupted.masked._asdict().items() if k != "batch"},
            "sampled_ids": corrupted.sampled_ids,
            "corrupted_ids": corrupted.corrupted_ids,
        }
        for corrupted in batches
    ]
    return {name: np.stack([table[name] for table in tables]) for name in tables[0]}


def _unstack(tensors: dict[str, Array]) -> list[CorruptedBatch]:
    batches = []
    for step in range(len(tensors["input_ids"])):

        def at_step(name: str, step: int = step) -> Array:
            array: Array = tensors[name][step]
            return array

        batch = Batch(*map(at_step, Batch._fields))
        masked = MaskedBatch(batch, *map(at_step, MaskedBatch._fields[1:]))
        corrupted_ids = at_step("corrupted_ids")
        replaced = corrupted_ids != batch.input_ids
        batches.append(CorruptedBatch(masked, at_step("sampled_ids"), corrupted_ids, replaced))
    return batches
