"""Settings of objectives that do not fit: each pair is refused in one line whose advice works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from electra_ref import train
from electra_ref.config.model import SHARING
from electra_ref.config.objective import ADVERSARIAL, INPUTS, OBJECTIVES, AdversarialConfig
from electra_ref.config.pretraining import OF_GENERATOR, resolve_config
from electra_ref.config.settings import to_toml
from electra_ref.errors import UserError
from tests.tiny_electra import tiny_config
from tests.variants import FULL_SIZE, VARIANTS, gradients_of_variant, output_of, variant_problem

Table = dict[str, Any]
ADVERSARIES = ("reinforce", "gumbel-softmax")
GUESSING = ("mlm", "replace-mlm", "all-tokens-mlm")
ONE_SIZE = {"generator_hidden_size": 1.0, "generator_layers": 1.0}
STAGES = {**FULL_SIZE, "sharing": "none", "two_stage_steps": 3}

# What does not fit, words that the line must have, and the settings that it advises.
MISFITS: list[tuple[Table, tuple[str, ...], Table]] = [
    *(
        ({"objective": objective, key: value},
         (key, repr(value), repr(objective), "use objective = 'electra' or 'electra-15'"),
         {"objective": "electra", **more})
        for objective in GUESSING
        for key, value, more in (
            ("adversarial", "reinforce", {}),
            ("discriminator_input", "paired", {"max_length": 17, "max_position_embeddings": 17}),
            ("two_stage_steps", 3, STAGES),
            ("discriminator_weight", 20.0, {}),
        )
    ),
    *(
        ({"objective": "mlm", key: value, **more}, (key, "'mlm' draws none: leave it out"),
         {key: default})
        for key, value, default, more in (
            ("temperature_steps", 9, 0, {"temperature": 2.0}),
            ("exploration", 0.5, 0.0, {}),
            ("disallow_correct", True, False, {}),
            ("uniform_generator", True, False, {}),
        )
    ),
    *(
        ({"uniform_generator": True, key: value, **more}, (key, "uniform_generator"),
         {"uniform_generator": False})
        for key, value, more in (
            ("exploration", 0.5, {}),
            ("temperature_steps", 9, {"temperature": 2.0}),
            ("two_stage_steps", 3, STAGES),
            ("generator_weight", 2.0, {}),
        )
    ),
    *(
        ({"adversarial": adversarial, key: value, **more},
         (repr(adversarial), f"leave {key} out"), {key: default})
        for adversarial in ADVERSARIES
        for key, value, default, more in (
            ("exploration", 0.5, 0.0, {}),
            ("disallow_correct", True, False, {}),
            ("uniform_generator", True, False, {}),
            ("two_stage_steps", 3, 0, STAGES),
        )
    ),
    *(
        ({"adversarial": adversarial, "discriminator_weight": 0.0},
         (repr(adversarial), "set discriminator_weight above 0"), {"discriminator_weight": 1.0})
        for adversarial in ADVERSARIES
    ),
    *(
        ({"adversarial": adversarial, "adversarial_weight": 0.0},
         ("adversarial_weight = 0 does nothing", "adversarial = 'none'"),
         {"adversarial": "none", "adversarial_weight": 1.0})
        for adversarial in ADVERSARIES
    ),
    ({"adversarial_weight": 2.0}, ("adversarial_weight needs", "'reinforce' or 'gumbel-softmax'"),
     {"adversarial": "reinforce"}),
    *(
        ({"adversarial": adversarial, key: value},
         (f"{key} needs adversarial = 'gumbel-softmax'", repr(adversarial)),
         {"adversarial": "gumbel-softmax"})
        for adversarial in ("none", "reinforce")
        for key, value in (("straight_through", False), ("gumbel_temperature", 0.5))
    ),
    *(
        ({"adversarial": adversarial, **schedule},
         ("gumbel_temperature_", "needs adversarial = 'gumbel-softmax'", repr(adversarial)),
         {"adversarial": "gumbel-softmax", "gumbel_temperature_end": 0.5,
          "gumbel_temperature_steps": 9})
        for adversarial in ("none", "reinforce")
        for schedule in ({"gumbel_temperature_end": 0.5}, {"gumbel_temperature_steps": 9})
    ),
    ({"temperature_end": 2.0}, ("temperature_end = 2", "set temperature_steps, too"),
     {"temperature_steps": 9}),
    ({"adversarial": "gumbel-softmax", "gumbel_temperature_end": 2.0},
     ("gumbel_temperature_end = 2", "set gumbel_temperature_steps, too"),
     {"gumbel_temperature_steps": 9}),
    *(
        ({"temperature_steps": 9},
         ("temperature = 1 stays", "temperature_steps = 9", "set temperature_end to"), advice)
        for advice in ({"temperature_end": 2.0}, {"temperature_steps": 0})
    ),
    ({"adversarial": "gumbel-softmax", "gumbel_temperature_steps": 9},
     ("gumbel_temperature = 1 stays", "set gumbel_temperature_end to"),
     {"gumbel_temperature_end": 0.5}),
    *(
        ({"objective": objective, "encoder_weight": 2.0},
         ("encoder_weight", repr(objective), "leave it out"), {"encoder_weight": 1.0})
        for objective in ("electra", "electra-15")
    ),
    ({"objective": "mlm", "generator_weight": 2.0},
     ("generator_weight", "objective = 'mlm'", "leave it out"), {"generator_weight": 1.0}),
    ({"generator_weight": 0.0, "discriminator_weight": 0.0},
     ("generator_weight = 0 and discriminator_weight = 0", "nothing", "one of them above 0"),
     {"generator_weight": 1.0}),
    ({"objective": "replace-mlm", "generator_weight": 0.0, "encoder_weight": 0.0},
     ("generator_weight = 0 and encoder_weight = 0", "nothing", "one of them above 0"),
     {"encoder_weight": 1.0}),
    ({"objective": "mlm", "encoder_weight": 0.0},
     ("encoder_weight = 0", "nothing", "set it above 0"), {"encoder_weight": 1.0}),
    ({"uniform_generator": True, "discriminator_weight": 0.0},
     ("discriminator_weight = 0", "nothing", "set it above 0"), {"discriminator_weight": 1.0}),
    *(
        ({**STAGES, key: 0.0}, (f"{key} = 0", "one of the two stages", "set it above 0"),
         {key: 1.0})
        for key in ("generator_weight", "discriminator_weight")
    ),
    ({"sharing": "all"}, ("sharing = 'all'", *(f"{key} = 1" for key in ONE_SIZE)), ONE_SIZE),
    *(
        ({**why, key: 2}, (key, why_words, "leave it out"), {key: 0})
        for key in ("generator_num_attention_heads", "generator_intermediate_size")
        for why, why_words in (
            ({"objective": "mlm"}, "needs a generator, and objective = 'mlm'"),
            ({"uniform_generator": True}, "needs a generator, and uniform_generator"),
            ({"sharing": "all", **FULL_SIZE}, "sharing = 'all'"),
        )
    ),
    ({"generator_num_attention_heads": 3},
     ("the generator's 3 attention heads", "its width 4", "generator_num_attention_heads"),
     {"generator_num_attention_heads": 2}),
    ({"uniform_generator": True, "tie_word_embeddings": False},
     ("tie_word_embeddings = false", "leave it out"), {"tie_word_embeddings": True}),
    *(
        ({"sharing": sharing, **why, **(ONE_SIZE if sharing == "all" else {})},
         ("one network only", next(iter(why)), "leave sharing at 'embeddings'"),
         {"sharing": "embeddings"})
        for sharing in ("none", "all", "gdes")
        for why in ({"objective": "mlm"}, {"uniform_generator": True})
    ),
    *(
        ({"sharing": "gdes", "objective": objective},
         ("'gdes'", repr(objective), "use objective = 'electra' or 'electra-15'"),
         {"objective": "electra-15"})
        for objective in ("replace-mlm", "all-tokens-mlm")
    ),
    *(
        ({**STAGES, "sharing": sharing}, ("two_stage_steps", "set sharing = 'none'"),
         {"sharing": "none"})
        for sharing in ("embeddings", "all", "gdes")
    ),
    *(
        ({"sharing": "none", "two_stage_steps": 3, "num_attention_heads": 2,
          "intermediate_size": 12, **sizes},
         ("two_stage_steps", "generator_hidden_size = 1, generator_layers = 1, "
          "generator_num_attention_heads = 2 and generator_intermediate_size = 12"),
         {**ONE_SIZE, "generator_num_attention_heads": 2, "generator_intermediate_size": 12})
        for sizes in ({}, {"generator_num_attention_heads": 4},
                      {"generator_intermediate_size": 256}, {"hidden_size": 130})
    ),
    ({**STAGES, "two_stage_steps": 20, "steps": 20},
     ("two_stage_steps = 20", "none of the 20 steps"), {"two_stage_steps": 19}),
    ({"discriminator_input": "paired", "max_length": 14, "max_position_embeddings": 15},
     ("max_length = 14 leaves 7 tokens", "max_length = 15 or more"), {"max_length": 15}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words", "advice"), MISFITS, ids=[str(misfit[0]) for misfit in MISFITS]
)
def test_what_does_not_fit_is_refused_and_the_advice_works(
    wrong: Table, words: tuple[str, ...], advice: Table
) -> None:
    with pytest.raises(UserError) as refused:
        tiny_config(**wrong)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    tiny_config(**{**wrong, **advice})


@pytest.mark.parametrize("without", ["objective=mlm", "uniform_generator=true"])
@pytest.mark.parametrize("key", OF_GENERATOR)
def test_what_is_chosen_for_a_generator_needs_one(key: str, without: str, tmp_path: Path) -> None:
    """A preset has values of it in any case, and so has a file that was printed."""
    with pytest.raises(UserError, match=f"^{key} needs a generator, and .* leave it out$"):
        resolve_config(preset="tiny", settings=[without, f"{key}=1.0"])
    config = resolve_config(preset="tiny", settings=[without])
    (tmp_path / "printed.toml").write_text(to_toml(config), encoding="utf-8")
    assert resolve_config(path=tmp_path / "printed.toml") == config


@pytest.mark.parametrize("key", ["temperature", "gumbel_temperature"])
def test_the_end_of_a_schedule_needs_steps_whatever_it_is(key: str) -> None:
    """Also the default, which tells nobody that it was chosen."""
    beside = ["adversarial=gumbel-softmax", f"{key}=1.3", f"{key}_end=1.0"]
    with pytest.raises(UserError, match=f"^{key}_end = 1 .* set {key}_steps, too$"):
        resolve_config(preset="tiny", settings=beside)
    resolve_config(preset="tiny", settings=[*beside, f"{key}_steps=9"])


@given(start=st.floats(0.01, 50.0), end=st.floats(0.01, 50.0), steps=st.integers(1, 10**6))
@example(start=3.0, end=0.01, steps=10)  # 3 + (0.01 - 3) is below 0.01
def test_a_schedule_keeps_to_its_range_and_ends_at_its_end(
    start: float, end: float, steps: int
) -> None:
    assume(start != end)
    config = AdversarialConfig(
        adversarial="gumbel-softmax",
        gumbel_temperature=start,
        gumbel_temperature_end=end,
        gumbel_temperature_steps=steps,
    )
    for step in (0, 1, steps // 2, steps - 1, steps, steps + 1):
        at_step = config.gumbel_temperature_at(step)
        assert min(start, end) <= at_step <= max(start, end)
        assert at_step == {0: start}.get(step, end) or 0 < step < steps


@pytest.mark.parametrize("without", ["objective=mlm", "uniform_generator=true"])
def test_the_heads_of_a_generator_that_is_not_there_need_not_fit(without: str) -> None:
    sizes = ["hidden_size=896", "num_attention_heads=14"]
    with pytest.raises(UserError, match=r"generator's 3 .* width 224; .* generator_hidden_size$"):
        resolve_config(preset="small", settings=sizes)
    resolve_config(preset="small", settings=[*sizes, "generator_hidden_size=0.5"])
    resolve_config(preset="small", settings=[*sizes, without])


def test_attention_at_the_neighbours_is_refused_where_no_network_has_it() -> None:
    """Unless nobody chose it: ``tiny`` has it in any case."""
    chosen = "initial_attention=neighbours"
    with pytest.raises(UserError, match=r"does nothing here: .* hidden_size = 256 and"):
        resolve_config(preset="small", settings=[chosen])
    resolve_config(preset="small", settings=[chosen, "embedding_size=256"])
    resolve_config(preset="small", settings=["initial_attention=random"])
    resolve_config(preset="tiny", settings=["hidden_size=64"])
    resolve_config(preset="tiny", settings=[chosen, "hidden_size=64", "generator_hidden_size=2.0"])
    with pytest.raises(UserError, match="heads of an even width"):
        resolve_config(preset="tiny", settings=[chosen, "num_attention_heads=128"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_fits_is_not_refused(variant: str) -> None:
    tiny_config(**{"max_length": 17, "max_position_embeddings": 17, **VARIANTS[variant]})


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        (["objective=mlm", "adversarial=reinforce"], "use objective = 'electra'"),
        (["two_stage_steps=10"], "set sharing = 'none'"),
        (["sharing=some"], "sharing = 'some' is none of none, embeddings, all, gdes"),
        (["objective=bert"], "objective = 'bert' is none of electra, electra-15, mlm"),
    ],
)
def test_the_command_refuses_before_it_reads_data(
    settings_: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The corpus that is named does not exist: nobody looked for it."""
    monkeypatch.chdir(tmp_path)
    flags = [flag for setting in settings_ for flag in ("--set", setting)]
    assert train.main(["--corpus", "missing.txt", "--output-dir", "run", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == []


ANY = st.fixed_dictionaries(
    {},
    optional={
        "objective": st.sampled_from(OBJECTIVES),
        "sharing": st.sampled_from(SHARING),
        "adversarial": st.sampled_from(ADVERSARIAL),
        "discriminator_input": st.sampled_from(INPUTS),
        "uniform_generator": st.booleans(),
        "disallow_correct": st.booleans(),
        "straight_through": st.booleans(),
        "exploration": st.sampled_from([0.0, 0.5, 1.0]),
        "two_stage_steps": st.sampled_from([0, 4, 10]),
        "temperature_steps": st.sampled_from([0, 3, 8]),
        "temperature_end": st.sampled_from([1.0, 2.0]),
        "generator_weight": st.sampled_from([0.0, 1.0]),
        "tie_word_embeddings": st.booleans(),
        "generator_num_attention_heads": st.sampled_from([0, 2]),
        "generator_intermediate_size": st.sampled_from([0, 7]),
        "same_size": st.booleans(),
    },
)


@settings(max_examples=60)
@given(chosen=ANY, seed=st.integers(0, 2**20))
def test_what_is_not_refused_can_be_trained(chosen: Table, seed: int) -> None:
    """Any settings at all: one clear line, or losses that are finite."""
    chosen = dict(chosen)
    sizes = FULL_SIZE if chosen.pop("same_size", False) else {}
    try:
        problem = variant_problem("electra", 0.5, seed, **{**sizes, **chosen})
    except UserError as refused:
        assert "\n" not in str(refused)  # noqa: PT017  (both ends are right)
        return
    output = output_of(problem, problem.vector)
    assert output.terms
    for term in output.terms:
        assert np.isfinite(term.sum)
    gradients_of_variant(problem)
