"""What describes a fine-tuning run, whatever the kind of task: recipe, text, encoder.

A kind of task inherits from ``FinetuningConfig`` and adds what its files and its head need.

The recipe is the original's: google-research/electra configure_finetuning.py. Rates by size are the
paper's (Clark et al. 2020, arXiv:2003.10555, appendix B): 3e-4 for small, 1e-4 for base, 5e-5 for
large models; the code has 1e-4 for small ones. It decays weights by 0.01, the paper by 0.

Models narrower than these are ours: ``NARROW``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from electra_ref.config.model import EncoderConfig
from electra_ref.config.normalization import NormalizationConfig
from electra_ref.config.settings import Settings, Value, count, setting
from electra_ref.config.training import TrainingConfig

FORMS = ("original", "huggingface", "layers")
# Narrower models, as of the presets tiny and laptop, need other settings. The preset tiny, accuracy
# on the task of ``embedded``: 0.58 with 3e-4, 0.8 and [CLS], 0.60 with 1e-3, 1 and [CLS], 0.68 with
# 1e-3, 1 and all tokens of the last layer, 0.73 with 1e-3, 1 and all layers.
NARROW = 256


@dataclasses.dataclass(frozen=True)
class RecipeConfig(Settings):
    """How the parameters of a pre-trained model move."""

    epochs: float = setting(
        3.0, "how often the training data are read, where steps is 0", above=0.0, at_most=1e6
    )
    warmup_proportion: float = setting(
        0.1, "share of the steps that warm up, where warmup_steps is 0", at_least=0.0, at_most=1.0
    )
    layerwise_decay: float = setting(
        0.8, "factor of the learning rate from layer to layer, downward", above=0.0, at_most=1.0
    )
    layerwise_gap: bool = setting(
        True, "the top layer is two factors below the head, as in the original; false: one"
    )
    from_scratch: bool = setting(
        False, "begin with random numbers as the model itself did, for comparison"
    )
    patience: int = count(
        0, "evaluations without a better score after which training ends; 0: never", at_least=0
    )
    bucket_batches: int = count(
        64, "batches that are sorted by length together, so that little is padded", resumed="fixed"
    )


@dataclasses.dataclass(frozen=True)
class FinetuningConfig(TrainingConfig, RecipeConfig, NormalizationConfig, EncoderConfig):
    """A fine-tuning run, whatever its task."""

    max_length: int = count(128, "tokens of a row at most, [CLS] and [SEP] included", at_least=8)

    task: str = setting("", "kind of task: --help lists them")
    head: str = setting(
        "original",
        "what stands on the encoder: the original's head, the one of Hugging Face's class, or the "
        "original's on all tokens and layers in place of [CLS] in the last one",
        choices=FORMS,
    )
    head_dropout: float = setting(
        0.1, "dropout of what the head reads", at_least=0.0, at_most=0.999
    )
    steps: int = count(0, "optimizer steps; 0: as many as epochs make", at_least=0, resumed="free")
    warmup_steps: int = count(
        0, "steps of linear warm-up; 0: warmup_proportion of all", at_least=0, resumed="free"
    )
    batch_size: int = count(32, "examples an optimizer step")
    learning_rate: float = setting(
        3e-4, "peak of the schedule, of the head", above=0.0, resumed="free"
    )
    log_every: int = count(10, "steps between two lines of metrics.jsonl", resumed="free")
    evaluate_every: int = count(
        0, "steps between two evaluations; 0: once an epoch", at_least=0, resumed="free"
    )
    checkpoint_every: int = count(
        0, "steps between two checkpoints; 0: once an epoch", at_least=0, resumed="free"
    )
    keep_checkpoints: int = count(1, "newest checkpoints that are kept", resumed="free")

    def _misfits(self) -> Iterator[str]:
        if self.max_length > self.max_position_embeddings:
            yield (
                f"max_length = {self.max_length}: the model reads "
                f"{self.max_position_embeddings} tokens at most"
            )

    def idle(self, chosen: Collection[str]) -> Iterator[str]:
        """Yield what is wrong with the keys that somebody has ``chosen`` and nothing reads.

        Files have values of all keys, so what stands in them is not wrong.
        """
        del chosen
        yield from ()


def misfits_of_token_head(settings: FinetuningConfig) -> Iterator[str]:
    """Yield what is wrong with ``settings`` of a head for tokens: it reads the last layer."""
    if settings.head == "layers":
        yield (
            f"head = 'layers' answers for whole rows, and {settings.task} asks about tokens: "
            "choose original or huggingface"
        )


def idle_dropout(
    settings: FinetuningConfig, chosen: Collection[str], with_dropout: Collection[str] = ()
) -> Iterator[str]:
    """Yield that ``head_dropout`` was chosen in vain, but in the forms ``with_dropout``."""
    if settings.head not in with_dropout and "head_dropout" in chosen:
        others = "".join(f", or choose head = {form!r}" for form in with_dropout)
        yield (
            f"head_dropout = {settings.head_dropout:g} does nothing with head = {settings.head!r} "
            f"of {settings.task}, which has no dropout: leave it out{others}"
        )


def rates_of(model: EncoderConfig) -> dict[str, Value]:
    """Return the learning rate and layer-wise decay for a model of this size."""
    if model.hidden_size < NARROW:
        return {"learning_rate": 1e-3, "layerwise_decay": 1.0}
    if model.num_hidden_layers >= 24:
        return {"learning_rate": 5e-5, "layerwise_decay": 0.9}
    return {"learning_rate": 1e-4 if model.hidden_size >= 768 else 3e-4, "layerwise_decay": 0.8}


def head_for_rows(model: EncoderConfig) -> dict[str, Value]:
    """Return which head answers for whole rows on a model of this size."""
    return {"head": "layers"} if model.hidden_size < NARROW else {}
