"""What a model is pre-trained to do: the losses, how replacements are drawn, and who reads what.

``model/objectives`` has the formulas and the sources of each objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from electra_ref.config.settings import Settings, count, setting, share

DETECTING = ("electra", "electra-15")  # their discriminator tells which tokens were replaced
OBJECTIVES = (*DETECTING, "mlm", "replace-mlm", "all-tokens-mlm")
ADVERSARIAL = ("none", "reinforce", "gumbel-softmax")
INPUTS = ("replaced", "paired")


@dataclasses.dataclass(frozen=True)
class SamplingConfig(Settings):
    """How the tokens are drawn that replace the masked ones."""

    temperature: float = setting(1.0, "divides the generator's logits before sampling", above=0.0)
    temperature_end: float = setting(
        1.0,
        "temperature from step temperature_steps on, if that is not 0; linear before",
        above=0.0,
    )
    temperature_steps: int = count(0, "steps of the way to it; 0: it never changes", at_least=0)
    exploration: float = share(
        0.0, "share of the samples that are uniform over the ordinary tokens instead"
    )
    disallow_correct: bool = setting(False, "never sample the original token")
    uniform_generator: bool = setting(
        False, "no generator: samples are uniform over the ordinary tokens"
    )

    def temperature_at(self, step: int) -> float:
        """Return the temperature of a training step, counted from 0."""
        return _at(step, self.temperature, self.temperature_end, self.temperature_steps)

    def _misfits(self) -> Iterator[str]:
        if self.uniform_generator:
            for key, default in (
                ("exploration", 0.0),
                ("temperature_steps", 0),
                ("temperature_end", 1.0),
            ):
                if getattr(self, key) != default:
                    yield (
                        f"{key} = {getattr(self, key)} does nothing with uniform_generator: leave "
                        "one of them out"
                    )
        yield from _misfits_of_schedule(self, "temperature")


@dataclasses.dataclass(frozen=True)
class AdversarialConfig(Settings):
    """How the discriminator's loss reaches the generator."""

    adversarial: str = setting(
        "none",
        "how the generator learns from the discriminator's loss: none, reinforce, gumbel-softmax",
        choices=ADVERSARIAL,
    )
    adversarial_weight: float = setting(
        1.0,
        "of that loss; positive: the generator fools the discriminator, negative: helps it",
        at_least=-1e6,
        at_most=1e6,
    )
    straight_through: bool = setting(
        True, "gumbel-softmax: the discriminator reads sampled tokens; false: mixtures of them"
    )
    gumbel_temperature: float = setting(
        1.0, "gumbel-softmax: of the relaxed samples; smaller is closer to one token", at_least=0.01
    )
    gumbel_temperature_end: float = setting(
        1.0,
        "gumbel_temperature from step gumbel_temperature_steps on, if that is not 0; linear before",
        at_least=0.01,
    )
    gumbel_temperature_steps: int = count(
        0, "steps of the way to it; 0: it never changes", at_least=0
    )

    def gumbel_temperature_at(self, step: int) -> float:
        """Return the temperature of the relaxed samples of a training step, counted from 0."""
        return _at(
            step,
            self.gumbel_temperature,
            self.gumbel_temperature_end,
            self.gumbel_temperature_steps,
        )

    def _misfits(self) -> Iterator[str]:
        if self.adversarial == "none" and self.adversarial_weight != 1.0:
            yield "adversarial_weight needs adversarial = 'reinforce' or 'gumbel-softmax'"
        if self.adversarial != "none" and self.adversarial_weight == 0.0:
            yield (
                "adversarial_weight = 0 does nothing: leave it out and set adversarial = 'none', "
                "or choose another weight"
            )
        if self.adversarial != "gumbel-softmax":
            for key, default in (
                ("straight_through", True),
                ("gumbel_temperature", 1.0),
                ("gumbel_temperature_end", 1.0),
                ("gumbel_temperature_steps", 0),
            ):
                if getattr(self, key) != default:
                    yield f"{key} needs adversarial = 'gumbel-softmax', not {self.adversarial!r}"
        yield from _misfits_of_schedule(self, "gumbel_temperature")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(AdversarialConfig, SamplingConfig):
    """What is masked, what is read, what is learned, and how much each loss weighs."""

    objective: str = setting(
        "electra",
        "electra; electra-15: RTD loss at masked positions only; mlm, replace-mlm, all-tokens-mlm: "
        "the full-size encoder guesses words",
        choices=OBJECTIVES,
    )
    mask_probability: float = setting(
        0.15, "share of the tokens that are masked", above=0.0, at_most=0.99
    )
    generator_weight: float = setting(
        1.0, "weight of the generator's MLM loss in the total", at_least=0.0
    )
    discriminator_weight: float = setting(50.0, "weight of the RTD loss in the total", at_least=0.0)
    encoder_weight: float = setting(
        1.0, "weight of the loss of a full-size encoder that guesses words", at_least=0.0
    )
    discriminator_input: str = setting(
        "replaced",
        "what the discriminator reads: replaced; paired: [CLS] original [SEP] replaced [SEP]",
        choices=INPUTS,
    )
    two_stage_steps: int = count(
        0,
        "steps of the generator alone, before the discriminator alone; 0: both learn at once",
        at_least=0,
    )

    @property
    def detects(self) -> bool:
        """Whether a discriminator tells which tokens were replaced."""
        return self.objective in DETECTING

    @property
    def why_no_generator(self) -> str | None:
        """The setting that leaves no generator beside a full-size network; None if there is one."""
        if self.objective == "mlm":
            return "objective = 'mlm'"
        return "uniform_generator" if self.uniform_generator else None

    @property
    def reads_pairs(self) -> bool:
        """Whether the discriminator reads the original row and the replaced one."""
        return self.discriminator_input == "paired"

    def _misfits(self) -> Iterator[str]:
        yield from _misfits_of_detection(self)
        yield from _misfits_of_samples(self)
        yield from _misfits_of_adversary(self)
        yield from _misfits_of_weights(self)


def needs_generator(key: str, config: ObjectiveConfig) -> str:
    """Return what to say of a ``key`` that does nothing since there is no generator."""
    return f"{key} needs a generator, and {config.why_no_generator} has none: leave it out"


def _misfits_of_detection(config: ObjectiveConfig) -> Iterator[str]:
    if config.detects:
        return
    for key, default in (
        ("adversarial", "none"),
        ("discriminator_input", "replaced"),
        ("two_stage_steps", 0),
        ("discriminator_weight", 50.0),
    ):
        if (value := getattr(config, key)) != default:
            yield (
                f"{key} = {value!r} needs a discriminator, and objective = {config.objective!r} "
                "has none: use objective = 'electra' or 'electra-15'"
            )


def _misfits_of_samples(config: ObjectiveConfig) -> Iterator[str]:
    if config.objective == "mlm":
        for key in ("temperature_steps", "exploration", "disallow_correct", "uniform_generator"):
            if getattr(config, key):
                yield f"{key} needs samples, and objective = 'mlm' draws none: leave it out"
    if config.uniform_generator and config.two_stage_steps:
        yield "two_stage_steps trains the generator, and uniform_generator has none: leave one out"


def _misfits_of_adversary(config: ObjectiveConfig) -> Iterator[str]:
    if config.adversarial == "none":
        return
    for key in ("exploration", "disallow_correct", "uniform_generator", "two_stage_steps"):
        if getattr(config, key):
            yield (
                f"adversarial = {config.adversarial!r} needs the generator's own samples at every "
                f"step: leave {key} out"
            )
    if config.discriminator_weight == 0.0:
        yield (
            f"adversarial = {config.adversarial!r} needs a discriminator that learns: set "
            "discriminator_weight above 0"
        )


def _misfits_of_weights(config: ObjectiveConfig) -> Iterator[str]:
    has_generator = config.why_no_generator is None
    if config.detects and config.encoder_weight != 1.0:
        yield (
            f"encoder_weight needs an encoder that guesses words, and objective = "
            f"{config.objective!r} has none: leave it out"
        )
    if not has_generator and config.generator_weight != 1.0:
        yield needs_generator("generator_weight", config)
    keys = ["generator_weight"] if has_generator else []
    keys.append("discriminator_weight" if config.detects else "encoder_weight")
    zero = [f"{key} = 0" for key in keys if getattr(config, key) == 0.0]
    if len(zero) == len(keys):
        which = "one of them" if len(zero) > 1 else "it"
        yield f"{' and '.join(zero)}: nothing would be learned; set {which} above 0"
    if zero and config.two_stage_steps:
        yield f"{zero[0]}: one of the two stages would learn nothing; set it above 0"


def _at(step: int, start: float, end: float, steps: int) -> float:
    if steps == 0:
        return start
    # Rounded, start + (end - start) can lie beyond the end, and so out of its range.
    return end if step >= steps else start + (end - start) * (step / steps)


def needs_steps(key: str, config: Settings) -> str:
    """Return what to say of the end of a schedule of ``key`` that has no steps."""
    end = getattr(config, f"{key}_end")
    return f"{key}_end = {end:g} is reached in {key}_steps steps: set {key}_steps, too"


def _misfits_of_schedule(config: Settings, key: str) -> Iterator[str]:
    end, steps = getattr(config, f"{key}_end"), getattr(config, f"{key}_steps")
    if steps == 0 and end != 1.0:
        yield needs_steps(key, config)
    if steps != 0 and end == getattr(config, key):
        yield (
            f"{key} = {end:g} stays as it is in {key}_steps = {steps} steps: set {key}_end to "
            f"another value, or leave {key}_steps out"
        )
