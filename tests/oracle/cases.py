"""The models and batches on which Hugging Face's classes and ours are compared."""

from __future__ import annotations

import numpy as np

from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.sampling import CorruptedBatch, corrupt
from tests.tiny_electra import VOCAB_SIZE, draw_masked_batch, tiny_config

LENGTHS = (9, 6, 1)  # tokens of the rows: no padding, some, and nothing but one token
STEPS = 10
SIZES: dict[str, dict[str, object]] = {
    "projected": {},  # embeddings 5, discriminator 8 in two heads, generator 4
    "same-width": {"embedding_size": 8, "generator_hidden_size": 1.0},
    "one-head": {"num_attention_heads": 1, "generator_layers": 0.5, "generator_hidden_size": 0.75},
    "many-heads": {  # generator 128 wide in two heads, discriminator 192 in six
        "embedding_size": 24,
        "hidden_size": 192,
        "num_hidden_layers": 1,
        "num_attention_heads": 6,
        "intermediate_size": 40,
        "generator_hidden_size": 2 / 3,
    },
}
SMALL_SIZES = tuple(SIZES)[:3]  # those of the fixture files
TRAINING: dict[str, object] = {
    "steps": 2 * STEPS,
    "warmup_steps": 3,
    "learning_rate": 2e-3,
    "weight_decay": 0.1,
    "gradient_clip": 13.0,  # in the midst of the norms: some steps are clipped, some are not
}


def case_config(size: str, **changes: object) -> PretrainingConfig:
    """Return the configuration of one of ``SIZES``, to be trained as ``TRAINING`` says."""
    return tiny_config(**{**SIZES[size], **TRAINING, **changes})


def draw_corrupted_batch(config: PretrainingConfig, seed: int) -> CorruptedBatch:
    """Draw rows of ``LENGTHS`` tokens, in any order, and replacements for the masked ones.

    [PAD] is never a replacement: Hugging Face's table leaves its row out of the gradient.
    """
    random = np.random.default_rng(seed)
    masked = draw_masked_batch(config, random, tuple(random.permutation(LENGTHS).tolist()))
    sampled_ids = random.integers(1, VOCAB_SIZE, masked.positions.shape).astype(np.int32)
    return corrupt(masked, sampled_ids)
