"""The value of every setting in every preset, written by hand next to its source.

Sources, as they are named below:

    config      google-research/electra configure_pretraining.py, ``PretrainingConfig``. Its values
                are those of ELECTRA-small; the others stand in the comment at its end.
    builder     google-research/electra build_pretraining_dataset.py, ``ExampleBuilder``
    bert        google-research/electra model/modeling.py, ``BertConfig``, and util/
                training_utils.py, ``get_bert_config``: heads are 64 wide, feed-forward layers four
                times as wide as the rest
    optimizer   google-research/electra model/optimization.py, ``AdamWeightDecayOptimizer``
    paper       Clark et al. 2020, arXiv:2003.10555, table 6
    ours        no value of theirs
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from electra_ref.config.model import EncoderSize, ModelConfig, discriminator_size, generator_size
from electra_ref.config.objective import ObjectiveConfig
from electra_ref.config.pretraining import (
    PRESETS,
    DataConfig,
    EvaluationConfig,
    PretrainingConfig,
    has_default_vocabulary_size,
    resolve_config,
)
from electra_ref.config.settings import Settings
from electra_ref.config.training import OptimizerConfig, RunConfig, TrainingConfig
from electra_ref.masking import MASK_BELOW, masked_slots

MODEL: dict[str, Any] = {
    "vocab_size": 0,  # ours: as many as the data yield
    "embedding_size": 128,  # config (small); paper: 128
    "hidden_size": 256,  # bert (small); paper: 256
    "num_hidden_layers": 12,  # bert (small); paper: 12
    "num_attention_heads": 4,  # bert: 256 / 64; paper: 4
    "intermediate_size": 1024,  # bert: 4 * 256; paper: 1024
    "max_position_embeddings": 512,  # bert
    "type_vocab_size": 2,  # bert
    "sharing": "embeddings",  # config: untied_generator_embeddings = False; paper, section 3.2
    "generator_hidden_size": 0.25,  # config; paper: 1/4
    "generator_layers": 1.0,  # config
    "generator_num_attention_heads": 0,  # get_generator_config: derived
    "generator_intermediate_size": 0,  # get_generator_config: derived
    "tie_word_embeddings": True,  # pretrain/run_pretraining.py, _get_masked_lm_output
    "hidden_dropout": 0.1,  # bert; paper: 0.1
    "attention_dropout": 0.1,  # bert; paper: 0.1
    "layer_norm_eps": 1e-12,  # bert: tf.contrib.layers.layer_norm
    "initializer_range": 0.02,  # bert
    "initial_attention": "random",  # bert
}
OBJECTIVE: dict[str, Any] = {
    "mask_probability": 0.15,  # config; paper: 15
    "objective": "electra",  # config: electra_objective
    "temperature": 1.0,  # config
    "temperature_end": 1.0,  # ours
    "temperature_steps": 0,  # ours
    "exploration": 0.0,  # ours
    "disallow_correct": False,  # config
    "uniform_generator": False,  # config
    "adversarial": "none",  # paper: section 3.3 and appendix F describe the other
    "adversarial_weight": 1.0,  # ours
    "straight_through": True,  # ours
    "gumbel_temperature": 1.0,  # ours
    "gumbel_temperature_end": 1.0,  # ours
    "gumbel_temperature_steps": 0,  # ours
    "encoder_weight": 1.0,  # ours
    "discriminator_input": "replaced",  # paper: figure 2
    "two_stage_steps": 0,  # paper: section 3.3, joint training is best
    "generator_weight": 1.0,  # config: gen_weight
    "discriminator_weight": 50.0,  # config: disc_weight; the paper's lambda, section 2
}
DATA: dict[str, Any] = {
    "max_vocab_size": 30522,  # config: vocab_size
    "lowercase": True,  # config: do_lower_case
    "strip_accents": True,  # original: model/tokenization.py, only where it lower-cases
    "max_length": 128,  # config: max_seq_length; paper: 128
    "single_segment_probability": 0.1,  # builder
    "short_probability": 0.05,  # builder
    "held_out_fraction": 0.05,  # ours
}
OPTIMIZER: dict[str, Any] = {
    "steps": 1_000_000,  # config: num_train_steps; paper: 1M
    "batch_size": 128,  # config: train_batch_size; paper: 128
    "accumulate": 1,  # ours
    "learning_rate": 5e-4,  # config; paper: 5e-4
    "warmup_steps": 10_000,  # config: num_warmup_steps; paper: 10000
    "lr_decay_power": 1.0,  # config; paper: linear
    "weight_decay": 0.01,  # config: weight_decay_rate; paper: 0.01
    "adam_beta1": 0.9,  # optimizer; paper: 0.9
    "adam_beta2": 0.999,  # optimizer; paper: 0.999
    "adam_epsilon": 1e-6,  # optimizer; paper: 1e-6
    "gradient_clip": 1.0,  # optimizer: clip_by_global_norm in create_optimizer
}
RUN: dict[str, Any] = {
    "seed": 0,  # ours
    "device": "auto",  # ours
    "precision": "auto",  # ours
    "log_every": 100,  # ours
    "evaluate_every": 10_000,  # ours
    "checkpoint_every": 1000,  # config: save_checkpoints_steps
    "keep_checkpoints": 3,  # ours; config: keep_checkpoint_max = 5
}
EVALUATION: dict[str, Any] = {"evaluation_batches": 100}  # config: num_eval_steps
SMALL: dict[str, Any] = {**MODEL, **OBJECTIVE, **DATA, **OPTIMIZER, **RUN, **EVALUATION}
BASE: dict[str, Any] = {
    **SMALL,
    "embedding_size": 768,  # config (comment); paper: 768
    "hidden_size": 768,  # bert; paper: 768
    "num_attention_heads": 12,  # bert: 768 / 64; paper: 12
    "intermediate_size": 3072,  # bert: 4 * 768; paper: 3072
    "generator_hidden_size": 1 / 3,  # config (comment): 0.33333; paper: 1/3
    "steps": 766_000,  # paper: 766K
    "batch_size": 256,  # config (comment); paper: 256
    "max_length": 512,  # config (comment); paper: 512
    "learning_rate": 2e-4,  # config (comment); paper: 2e-4
}
LARGE: dict[str, Any] = {
    **SMALL,
    "embedding_size": 1024,  # config (comment); paper: 1024
    "hidden_size": 1024,  # bert; paper: 1024
    "num_hidden_layers": 24,  # bert; paper: 24
    "num_attention_heads": 16,  # bert: 1024 / 64; paper: 16
    "intermediate_size": 4096,  # bert: 4 * 1024; paper: 4096
    "mask_probability": 0.25,  # config (comment); paper: 25
    "steps": 400_000,  # paper: 400K
    "batch_size": 2048,  # config (comment); paper: 2048
    "max_length": 512,  # config (comment); paper: 512
    "learning_rate": 2e-4,  # config (comment); paper: 2e-4
}
# Ours: found by trying, for some minutes on two cores; see ``config.pretraining``.
TINY: dict[str, Any] = {
    **SMALL,
    "max_vocab_size": 2048,
    "embedding_size": 128,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    "generator_hidden_size": 0.0625,
    "generator_layers": 0.5,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "initializer_range": 0.08,
    "initial_attention": "neighbours",
    "temperature": 1.3,
    "steps": 1500,
    "batch_size": 64,
    "max_length": 32,
    "learning_rate": 7e-4,
    "warmup_steps": 150,
    "adam_epsilon": 1e-8,
    "log_every": 20,
    "evaluate_every": 500,
    "evaluation_batches": 16,
    "checkpoint_every": 500,
}


LAPTOP: dict[str, Any] = {
    **TINY,
    "max_vocab_size": 4096,
    "num_hidden_layers": 3,
    "generator_layers": 1 / 3,
    "mask_probability": 0.3,
    "max_length": 64,
    "held_out_fraction": 0.01,
    "steps": 12_000,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "warmup_steps": 600,
    "log_every": 50,
    "evaluate_every": 1000,
    "evaluation_batches": 32,
    "checkpoint_every": 1000,
}


@pytest.mark.parametrize(
    ("preset", "values"),
    [("tiny", TINY), ("laptop", LAPTOP), ("small", SMALL), ("base", BASE), ("large", LARGE)],
)
def test_every_value_of_a_preset(preset: str, values: dict[str, Any]) -> None:
    assert dataclasses.asdict(resolve_config(preset=preset)) == {"preset": preset, **values}


def test_there_are_five_presets_and_tiny_is_what_a_run_takes_by_default() -> None:
    assert sorted(PRESETS) == ["base", "laptop", "large", "small", "tiny"]
    assert dataclasses.asdict(resolve_config()) == {"preset": "tiny", **TINY}


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (ModelConfig, MODEL),
        (ObjectiveConfig, OBJECTIVE),
        (DataConfig, DATA),
        (OptimizerConfig, OPTIMIZER),
        (RunConfig, RUN),
        (EvaluationConfig, EVALUATION),
        (TrainingConfig, OPTIMIZER | RUN),
        (PretrainingConfig, {"preset": "tiny", **SMALL}),
    ],
)
def test_every_default_of_a_table(table: type[Settings], values: dict[str, Any]) -> None:
    assert dataclasses.asdict(table()) == values


@pytest.mark.parametrize(
    ("preset", "discriminator", "generator"),
    [  # get_bert_config and, in pretrain/run_pretraining.py, get_generator_config; tiny is ours
        ("tiny", EncoderSize(128, 2, 4, 512), EncoderSize(8, 1, 1, 32)),
        ("small", EncoderSize(256, 12, 4, 1024), EncoderSize(64, 12, 1, 256)),
        ("base", EncoderSize(768, 12, 12, 3072), EncoderSize(256, 12, 4, 1024)),
        ("large", EncoderSize(1024, 24, 16, 4096), EncoderSize(256, 24, 4, 1024)),
    ],
)
def test_sizes_of_both_networks(
    preset: str, discriminator: EncoderSize, generator: EncoderSize
) -> None:
    config = resolve_config(preset=preset)
    assert discriminator_size(config) == discriminator
    assert generator_size(config) == generator


@pytest.mark.parametrize(
    ("length", "probability", "slots"),
    [  # config: max_predictions_per_seq = int((mask_prob + 0.005) * max_seq_length)
        (32, 0.15, 4), (64, 0.15, 9), (128, 0.15, 19), (256, 0.15, 39), (512, 0.15, 79),
        (512, 0.25, 130),
    ],
)  # fmt: skip
def test_slots_for_masked_positions(length: int, probability: float, slots: int) -> None:
    assert masked_slots(length, probability) == slots


def test_85_of_100_chosen_tokens_are_hidden() -> None:
    """google-research/electra pretrain/pretrain_helpers.py, ``mask``: uniform < 0.85."""
    assert MASK_BELOW == 3_650_722_201  # 0.85 * 2**32, rounded down


@pytest.mark.parametrize("preset", PRESETS)
def test_a_size_of_the_vocabulary_that_was_asked_for_is_told_from_the_presets(preset: str) -> None:
    assert has_default_vocabulary_size(resolve_config(preset=preset))
    for settings in (["max_vocab_size=3000"], ["vocab_size=2048"]):
        assert not has_default_vocabulary_size(resolve_config(preset=preset, settings=settings))
