"""ELECTRA's joint model from Hugging Face's two classes, and its training in plain PyTorch.

Hugging Face has the two networks, but no model that trains them together. Here the generator
(ElectraForMaskedLM) and the discriminator (ElectraForPreTraining) share the whole embedding module,
their two losses are added, and autograd does the rest. Float64, one thread, dropout off.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import transformers

from benchmarks.pytorch_electra import huggingface_config
from electra_ref.arrays import Array
from electra_ref.config.model import discriminator_size, generator_size
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.model.parameters import FlatParameters
from electra_ref.sampling import CorruptedBatch
from tests.oracle.fixture_files import Answers
from tests.oracle.huggingface_weights import NETWORKS, to_huggingface

CLASSES: dict[str, Any] = {
    "generator": transformers.ElectraForMaskedLM,
    "discriminator": transformers.ElectraForPreTraining,
}
IGNORED_LABEL = -100


class Outputs(NamedTuple):
    """What a forward pass gives; the losses are means."""

    mlm_loss: Any  # ()
    rtd_loss: Any  # ()
    their_rtd_loss: Any  # ()  as Hugging Face returns it
    generator_logits: Any  # (B, T, V)
    discriminator_logits: Any  # (B, T)


def load_network(config: PretrainingConfig, parameters: FlatParameters, network: str) -> Any:
    """Return Hugging Face's class for ``network`` with our parameters, every tensor loaded."""
    sizes = {"generator": generator_size(config), "discriminator": discriminator_size(config)}
    undropped = dataclasses.replace(config, hidden_dropout=0.0, attention_dropout=0.0)
    theirs = huggingface_config(undropped, sizes[network], attn_implementation="eager")
    model = CLASSES[network](theirs)
    state_dict = to_huggingface(config, parameters, network)
    if network == "generator":
        tied = state_dict["electra.embeddings.word_embeddings.weight"]
        state_dict["generator_lm_head.weight"] = tied
    model.double().eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in state_dict.items()})
    return model


def load_joint_model(config: PretrainingConfig, parameters: FlatParameters) -> Any:
    """Return both networks, by name, around one embedding module, which is a parameter once."""
    torch.set_num_threads(1)
    joint: Any = torch.nn.ModuleDict(
        {network: load_network(config, parameters, network) for network in NETWORKS}
    )
    embeddings = joint["discriminator"].electra.embeddings
    joint["generator"].electra.embeddings = embeddings
    joint["generator"].generator_lm_head.weight = embeddings.word_embeddings.weight
    return joint


def forward(joint: Any, corrupted: CorruptedBatch) -> Outputs:
    """Run both networks on a batch.

    The MLM loss is Hugging Face's own. Its RTD loss is rounded to float32, whatever the type of the
    model: it casts the labels, and PyTorch returns this loss in the type of the labels. So the RTD
    loss is PyTorch's own, of Hugging Face's logits and labels in float64.
    """
    masked = corrupted.masked
    labels = torch.full(masked.masked_ids.shape, IGNORED_LABEL)
    rows, slots = masked.weights.nonzero()
    labels[rows, masked.positions[rows, slots]] = _integers(masked.labels[rows, slots])
    shared = {
        "attention_mask": _integers(masked.batch.attention_mask),
        "token_type_ids": _integers(masked.batch.token_type_ids),
    }
    generator = joint["generator"](input_ids=_integers(masked.masked_ids), labels=labels, **shared)
    discriminator = joint["discriminator"](
        input_ids=_integers(corrupted.corrupted_ids),
        labels=_integers(corrupted.replaced),
        **shared,
    )
    tokens = shared["attention_mask"] == 1
    rtd_loss = torch.nn.functional.binary_cross_entropy_with_logits(
        discriminator.logits[tokens], torch.tensor(corrupted.replaced).double()[tokens]
    )
    return Outputs(
        generator.loss, rtd_loss, discriminator.loss, generator.logits, discriminator.logits
    )


def backward(config: PretrainingConfig, joint: Any, outputs: Outputs) -> Any:
    """Let autograd set every gradient of the total loss; return the loss ()."""
    joint.zero_grad()
    loss = outputs.mlm_loss * config.generator_weight
    loss = loss + outputs.rtd_loss * config.discriminator_weight
    loss.backward()
    return loss


def state_dicts(joint: Any, *, gradients: bool = False) -> dict[str, dict[str, Array]]:
    """Return a copy of the parameters of each network, or of their gradients, in NumPy."""
    return {
        network: {
            name: (tensor.grad if gradients else tensor.detach()).numpy().copy()
            for name, tensor in joint[network].named_parameters()
        }
        for network in NETWORKS
    }


def train(
    config: PretrainingConfig, joint: Any, batches: list[CorruptedBatch]
) -> tuple[list[float], list[float]]:
    """Take one step of ELECTRA's AdamW a batch: losses, and gradient norms before clipping.

    Written tensor by tensor from its source, apart from ours; ``joint`` is left trained.
    Source: google-research/electra model/optimization.py.
    """
    parameters = dict(joint.named_parameters())  # shared ones once
    moments = {name: torch.zeros(2, *tensor.shape).double() for name, tensor in parameters.items()}
    losses, norms = [], []
    for step, corrupted in enumerate(batches):
        loss = backward(config, joint, forward(joint, corrupted))
        norm = torch.cat([tensor.grad.flatten() for tensor in parameters.values()]).norm()
        warmup = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
        rate = config.learning_rate * warmup * (1 - step / config.steps)
        for name, tensor in parameters.items():
            gradient = tensor.grad * min(1.0, config.gradient_clip / norm.item())
            mean, square = moments[name]
            mean.lerp_(gradient, 1 - config.adam_beta1)
            square.lerp_(gradient**2, 1 - config.adam_beta2)
            update = mean / (square.sqrt() + config.adam_epsilon)
            if "bias" not in name and "LayerNorm" not in name:
                update = update + config.weight_decay * tensor.detach()
            tensor.data -= rate * update
        losses.append(loss.item())
        norms.append(norm.item())
    return losses, norms


def answer(
    config: PretrainingConfig, parameters: FlatParameters, batches: list[CorruptedBatch]
) -> Answers:
    """Return all that is compared: a pass on the first batch, and a training on all of them."""
    joint = load_joint_model(config, parameters)
    outputs = forward(joint, batches[0])
    loss = backward(config, joint, outputs)
    gradients = state_dicts(joint, gradients=True)
    losses, norms = train(config, joint, batches)
    return Answers(
        outputs.mlm_loss.item(),
        outputs.rtd_loss.item(),
        loss.item(),
        outputs.generator_logits.detach().numpy(),
        outputs.discriminator_logits.detach().numpy(),
        gradients,
        losses,
        norms,
    )


def _integers(array: Array) -> Any:
    return torch.tensor(array, dtype=torch.long)
