"""The rival: ELECTRA's joint training step in PyTorch, with Hugging Face's two encoders.

Sizes, shared embeddings, dropout, masking, sampling, losses, AdamW and clipping are those of
electra_ref. These choices make the rival faster:

* The generator's head runs on the masked positions only. Hugging Face's class runs it on all.
* Attention and AdamW are PyTorch's fused ones.
* Samples are drawn with the cumulative sum of the probabilities. ``torch.multinomial`` would draw a
  random number for every word.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (its customary name)
import transformers
from transformers.models.electra import modeling_electra

from electra_ref.batch import Batch, SpecialTokens
from electra_ref.config.model import EncoderConfig, EncoderSize, discriminator_size, generator_size
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.training.schedule import learning_rate

MASKED_SHARE = 0.85  # of the chosen positions; the others keep their token


# Without PyTorch mypy sees a base class of type Any, hence the ignore; with PyTorch the ignore is
# unused.
class JointElectra(torch.nn.Module):  # type: ignore[misc, unused-ignore]  # mypy may run without torch
    """Both networks with one embedding table."""

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        generator = huggingface_config(config, generator_size(config))
        discriminator = huggingface_config(config, discriminator_size(config))
        self.generator = transformers.ElectraModel(generator)
        self.discriminator = transformers.ElectraModel(discriminator)
        self.generator.embeddings = self.discriminator.embeddings
        heads: Any = modeling_electra  # its constructors are not typed
        self.generator_head = heads.ElectraGeneratorPredictions(generator)
        self.output_bias = torch.nn.Parameter(torch.zeros(config.vocab_size))
        self.discriminator_head = heads.ElectraDiscriminatorPredictions(discriminator)
        for head in (self.generator_head, self.discriminator_head):
            for module in head.modules():
                if isinstance(module, torch.nn.Linear):
                    torch.nn.init.normal_(module.weight, std=config.initializer_range)
                    torch.nn.init.zeros_(module.bias)

    def generate(self, ids: Any, types: Any, mask: Any, positions: Any) -> Any:
        """Return the logits (B, M, V) at ``positions`` (B, M)."""
        hidden = self.generator(ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        index = positions[:, :, None].expand(-1, -1, hidden.shape[2])
        hidden = self.generator_head(hidden.gather(1, index))
        table = self.discriminator.embeddings.word_embeddings.weight
        return F.linear(hidden, table, self.output_bias)

    def discriminate(self, ids: Any, types: Any, mask: Any) -> Any:
        """Return the logits (B, T)."""
        outputs = self.discriminator(ids, attention_mask=mask, token_type_ids=types)
        return self.discriminator_head(outputs.last_hidden_state)


def prepare_pytorch(
    config: PretrainingConfig,
    masked_slots: int,
    special_tokens: SpecialTokens,
    precision: str,
    compiled: bool,
    threads: int,
) -> Callable[[Batch], dict[str, float]]:
    """Return a step that trains ``config`` on a batch: from masking to updated parameters.

    ``precision`` is float32, or bfloat16 by autocast. ``compiled`` takes minutes in the first step.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    model = JointElectra(config).train()
    generate, discriminate = model.generate, model.discriminate
    if compiled:
        generate, discriminate = torch.compile(generate), torch.compile(discriminate)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )

    steps = itertools.count()

    def step(batch: Batch) -> dict[str, float]:
        optimizer.param_groups[0]["lr"] = learning_rate(config, next(steps))
        ids = torch.from_numpy(batch.input_ids).long()
        types = torch.from_numpy(batch.token_type_ids).long()
        tokens = torch.from_numpy(batch.attention_mask)
        masked_ids, positions, used = mask(
            ids, tokens, special_tokens, config.mask_probability, masked_slots
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = generate(masked_ids, types, tokens.long(), positions)
            sampled = sample(logits.detach().float(), config.temperature)
            corrupted = ids.scatter(
                1, positions, torch.where(used, sampled, ids.gather(1, positions))
            )
            rtd_logits = discriminate(corrupted, types, tokens.long())
        labels = ids.gather(1, positions).masked_fill(~used, -100)
        mlm_loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        rtd_loss = F.binary_cross_entropy_with_logits(
            rtd_logits.float(), (corrupted != ids).float(), tokens.float(), reduction="sum"
        )
        loss: Any = config.generator_weight * mlm_loss
        loss = loss + config.discriminator_weight * rtd_loss / tokens.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        return {"loss": loss.item()}

    return step


def mask(
    ids: Any, tokens: Any, special_tokens: SpecialTokens, mask_probability: float, slots: int
) -> tuple[Any, Any, Any]:
    """Return masked ids (B, T), chosen positions (B, M) and which of them are used (B, M).

    Unused slots hold other positions, so that no two slots write to the same place.
    """
    special = torch.tensor([special_tokens.cls, special_tokens.sep, special_tokens.mask])
    candidates = tokens & ~torch.isin(ids, special)
    keys = torch.rand(ids.shape).masked_fill(~candidates, -1.0)
    positions = keys.topk(slots, dim=1).indices
    counts = (mask_probability * tokens.sum(1)).round().clamp(1, slots)
    counts = torch.minimum(counts, candidates.sum(1))
    used = torch.arange(slots) < counts[:, None]
    hidden = used & (torch.rand(used.shape) < MASKED_SHARE)
    kept = ids.gather(1, positions)
    return (
        ids.scatter(1, positions, kept.masked_fill(hidden, special_tokens.mask)),
        positions,
        used,
    )


def sample(logits: Any, temperature: float) -> Any:
    """Return one token (B, M) for each row of ``logits`` (B, M, V)."""
    cumulative = torch.softmax(logits / temperature, dim=-1).flatten(0, 1).cumsum(1)
    thresholds = torch.rand(len(cumulative), 1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds).view(logits.shape[:2])


def huggingface_config(config: EncoderConfig, size: EncoderSize, **options: Any) -> Any:
    """Return the configuration of one network for transformers, with its own ``options``."""
    config_class: Any = transformers.ElectraConfig  # its annotations leave arguments out
    return config_class(
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        intermediate_size=size.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        layer_norm_eps=config.layer_norm_eps,
        initializer_range=config.initializer_range,
        hidden_dropout_prob=config.hidden_dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        **options,
    )
