"""A run begins with a model that was trained before, or with a vocabulary that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import train
from electra_ref.text.token_ids import id_vocabulary
from electra_ref.text.vocabulary import load_vocabulary
from electra_ref.training.checkpoint import load_checkpoint
from electra_ref.training.pretraining.run import resume
from electra_ref.training.report.reading import read_run
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import SETTINGS, flags_of, quiet, write_corpus
from tests.test_collapse import COLLAPSED, records_of

pytestmark = pytest.mark.usefixtures("quick")

Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, and the runs that a test begins with."""
    folder = tmp_path_factory.mktemp("begin")
    write_corpus(folder / "old.txt", seed=0)
    write_corpus(folder / "new.txt", seed=1)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A run of four steps."""
    return run_of(folder, "trained", steps=4)


def run_of(folder: Path, name: str, **changes: Any) -> Path:
    """Return the folder of a finished run on the old corpus."""
    settings = {**SETTINGS, "held_out_fraction": 0.3, **changes}
    corpus = ["--corpus", str(folder / "old.txt"), "--output-dir", str(folder / name)]
    assert train.main([*corpus, *flags_of(**settings)]) == 0
    return folder / name


NEW = {
    key: value
    for key, value in SETTINGS.items()
    if key in ("steps", "batch_size", "warmup_steps", "evaluation_batches", "device", "max_length",
               "precision", "accumulate")
}  # fmt: skip


def begin(
    model: Path, run: Path, *more: str, corpus: str = "new.txt", steps: int = 2, **changes: Any
) -> int:
    """Begin a run with ``model`` on a corpus beside it, for two steps; return the exit code."""
    arguments = ["--init-from", str(model), "--corpus", str(model.parent / corpus)]
    arguments += ["--output-dir", str(run), "--max-steps", str(steps), *more]
    return train.main([*arguments, *flags_of(**{**NEW, **changes})])


def model_at(run: Path, step: int) -> Tensors:
    return dict(load_checkpoint(run / "checkpoints" / f"step-{step:08d}").groups["model"])


def test_parameters_vocabulary_and_sizes_are_the_models(trained: Path, tmp_path: Path) -> None:
    assert begin(trained, tmp_path / "run") == 0
    start, before, after = model_at(tmp_path / "run", 0), model_at(trained, 4), None
    after = model_at(tmp_path / "run", 2)
    assert start.keys() == before.keys() == after.keys()
    for name, tensor in before.items():
        assert start[name].tobytes() == tensor.tobytes()
    assert any((after[name] != start[name]).any() for name in start)
    vocabularies = [(path / "vocab.txt").read_bytes() for path in (trained, tmp_path / "run")]
    assert vocabularies[0] == vocabularies[1]
    optimizer = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000000")
    assert not any(moment.any() for moment in optimizer.groups["optimizer"].values())


def test_the_new_corpus_is_read_and_the_schedule_is_new(trained: Path, tmp_path: Path) -> None:
    """The first step of one warm-up step of two has half the rate of a run without warm-up."""
    for name, corpus, warmup in (("a", "new.txt", 2), ("b", "old.txt", 2), ("c", "new.txt", 0)):
        assert begin(trained, tmp_path / name, corpus=corpus, warmup_steps=warmup, log_every=1) == 0
    records = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("a", "b", "c")
    ]
    assert records[0]["loss"] != records[1]["loss"]
    assert records[0]["learning_rate"] < records[2]["learning_rate"]


def test_a_discriminator_alone_gets_a_generator_that_is_new(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run_of(folder, "alone", uniform_generator=True, steps=3)
    capsys.readouterr()
    assert begin(alone, tmp_path / "run", seed=7) == 0
    said = capsys.readouterr().err
    assert "begins with 35 tensors of the model in" in said
    assert "(step 3); new are 31 of generator" in said
    start, before = model_at(tmp_path / "run", 0), model_at(alone, 3)
    for name, tensor in before.items():
        assert start[name].tobytes() == tensor.tobytes()
    fresh = start.keys() - before.keys()
    assert {name.partition(".")[0] for name in fresh} == {"generator"}
    assert begin(alone, tmp_path / "other", seed=8) == 0
    other = model_at(tmp_path / "other", 0)
    name = "generator.layer.0.output.weight"
    assert (other[name] != start[name]).any()  # drawn from the new run's seed
    # its sizes are free, and it may also stay away
    assert begin(alone, tmp_path / "wide", generator_hidden_size=1.0, sharing="none") == 0
    assert begin(alone, tmp_path / "uniform", uniform_generator=True) == 0
    assert model_at(tmp_path / "uniform", 0).keys() == before.keys()


def test_a_discriminator_alone_begins_in_gdes_with_what_it_has_learned(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables of its own are zero, so it reads as before: by its layer norm, too."""
    alone = run_of(folder, "normalized", uniform_generator=True, steps=3)
    capsys.readouterr()
    assert begin(alone, tmp_path / "run", sharing="gdes") == 0
    start, before = model_at(tmp_path / "run", 0), model_at(alone, 3)
    for part in ("weight", "bias"):
        own = start[f"discriminator.embeddings.layer_norm.{part}"]
        assert own.tobytes() == before[f"embeddings.layer_norm.{part}"].tobytes()
    assert not start["discriminator.embeddings.word_embeddings.weight"].any()
    assert "new are 31 of generator, 3 of discriminator" in capsys.readouterr().err


def test_an_encoder_alone_gets_a_generator_that_is_new(folder: Path, tmp_path: Path) -> None:
    """Its sizes are free; whether the encoder has a table of its own to guess by is not."""
    alone = run_of(folder, "encoder", objective="mlm", steps=2)
    new: dict[str, Any] = {
        "objective": "replace-mlm",
        "generator_hidden_size": 0.25,
        "sharing": "none",
    }
    assert begin(alone, tmp_path / "run", **new) == 0
    start, before = model_at(tmp_path / "run", 0), model_at(alone, 2)
    for name, tensor in before.items():
        assert start[name].tobytes() == tensor.tobytes()
    assert {name.partition(".")[0] for name in start.keys() - before.keys()} == {"generator"}
    assert begin(alone, tmp_path / "other", **new, tie_word_embeddings=False) == 2


def test_one_encoder_of_both_cannot_begin_with_a_discriminator_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = run_of(folder, "unshared", uniform_generator=True, steps=2)
    full_size: dict[str, Any] = {"generator_hidden_size": 1.0, "generator_layers": 1.0}
    capsys.readouterr()
    assert begin(alone, tmp_path / "run", sharing="all", **full_size) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is a discriminator alone: leave sharing out")
    assert begin(alone, tmp_path / "run", **full_size) == 0


@pytest.mark.parametrize("objective", ["mlm", "replace-mlm", "all-tokens-mlm", "electra-15"])
def test_the_objective_is_that_of_the_model(
    objective: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = run_of(folder, objective, objective=objective, steps=2)
    assert begin(model, tmp_path / "run") == 0
    assert f'objective = "{objective}"' in (tmp_path / "run" / "config.toml").read_text()
    assert model_at(tmp_path / "run", 0).keys() == model_at(model, 2).keys()
    capsys.readouterr()
    if objective == "mlm":
        assert begin(model, tmp_path / "other", objective="electra") == 2
        assert "has no network that objective = 'electra' trains, since its own was 'mlm'" in (
            capsys.readouterr().err
        )
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 16), ("embedding_size", 8), ("num_hidden_layers", 1),
        ("intermediate_size", 10), ("generator_hidden_size", 1.0), ("vocab_size", 66),
        ("sharing", "none"), ("layer_norm_eps", 1e-5), ("lowercase", False),
        ("tie_word_embeddings", False), ("max_position_embeddings", 30),
    ],
)  # fmt: skip
def test_what_the_model_decides_about_cannot_be_another(
    key: str, value: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert begin(trained, tmp_path / "run", **{key: value}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{key} = {value!r} does not fit the model in {trained}" in line
    assert line.endswith("leave it out")
    assert not (tmp_path / "run").exists()


def test_a_configuration_file_counts_like_settings(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--config`` of the old run continues with all its settings; another model's is refused."""
    assert begin(trained, tmp_path / "run", "--config", str(trained / "config.toml")) == 0
    (tmp_path / "other.toml").write_text("hidden_size = 16\n")
    capsys.readouterr()
    assert begin(trained, tmp_path / "other", "--config", str(tmp_path / "other.toml")) == 2
    assert "hidden_size = 16 does not fit" in capsys.readouterr().err


def test_a_run_without_checkpoint_begins_again_with_the_model(
    trained: Path, tmp_path: Path
) -> None:
    """A run that was killed before its first checkpoint was saved; now it has one."""
    assert begin(trained, tmp_path / "whole") == 0
    assert begin(trained, tmp_path / "run") == 0
    for name in ("checkpoints", "metrics.jsonl", "samples.jsonl", "data.json", "vocab.txt"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tmp_path / "run" / "checkpoints").mkdir()
    arguments = ["--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "2"]
    assert train.main(arguments) == 0
    for step in (0, 2):
        for name, tensor in model_at(tmp_path / "whole", step).items():
            assert model_at(tmp_path / "run", step)[name].tobytes() == tensor.tobytes()


def test_warnings_do_not_propose_what_the_model_decides(trained: Path, tmp_path: Path) -> None:
    """Its sizes would be refused; another run that went so is told of them."""
    records = [{"split": "held_out", **record} for record in records_of(COLLAPSED[:7])]
    assert begin(trained, tmp_path / "run") == 0
    longer = ["steps=2000", "warmup_steps=200"]
    for run, has_sizes in ((trained, True), (tmp_path / "run", False)):
        copy = Path(shutil.copytree(run, tmp_path / f"copy of {run.name}"))
        with (trainer := resume(copy, longer, None, quiet(), StopSignals())).run:
            said = trainer.task.warnings(records)
        (copy / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
        for lines in (said, read_run(copy, "copy").warnings):
            assert any("temperature=1.3" in line for line in lines)
            assert any("generator_hidden_size" in line for line in lines) == has_sizes


def test_a_resumed_run_does_not_need_the_model(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "trained")
    shutil.copy(trained.parent / "new.txt", tmp_path)
    assert begin(tmp_path / "trained", tmp_path / "run") == 0
    assert begin(tmp_path / "trained", tmp_path / "whole", steps=4) == 0
    shutil.rmtree(tmp_path / "trained")
    arguments = ["--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "4"]
    assert train.main(arguments) == 0
    for name, tensor in model_at(tmp_path / "whole", 4).items():
        assert model_at(tmp_path / "run", 4)[name].tobytes() == tensor.tobytes()


def test_ids_of_a_model_of_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """New ids may be fewer than the model knows, and not more; text means nothing to it."""
    random = np.random.default_rng(0)
    for name, largest in (("old", 40), ("fewer", 20), ("more", 50)):
        ids = random.integers(0, largest, (30, 50))
        ids[0, 0] = largest - 1
        np.save(tmp_path / f"{name}.npy", ids)
    write_corpus(tmp_path / "new.txt")
    old = ["--tokens", str(tmp_path / "old.npy"), "--output-dir", str(tmp_path / "old")]
    assert train.main([*old, *flags_of(**{**SETTINGS, "steps": 2})]) == 0

    def begin_on(name: str) -> int:
        arguments = ["--init-from", str(tmp_path / "old"), "--max-steps", "1"]
        arguments += ["--tokens", str(tmp_path / f"{name}.npy")]
        return train.main(
            [*arguments, "--output-dir", str(tmp_path / f"run-{name}"), *flags_of(**NEW)]
        )

    assert begin_on("fewer") == 0
    assert len(load_vocabulary(tmp_path / "run-fewer" / "vocab.txt")) == 45
    capsys.readouterr()
    assert begin_on("more") == 2
    assert "has ids up to 49, and the model knows those below 40" in capsys.readouterr().err
    assert begin(tmp_path / "old", tmp_path / "text") == 2
    assert "name an array of ids with --tokens" in capsys.readouterr().err


def test_ids_for_a_model_of_text(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 20, (30, 50)))
    arguments = ["--init-from", str(trained), "--tokens", str(tmp_path / "ids.npy")]
    capsys.readouterr()
    assert train.main([*arguments, "--output-dir", str(tmp_path / "run"), *flags_of(**NEW)]) == 2
    assert "the vocabulary of the model was made from text" in capsys.readouterr().err


def test_a_vocabulary_that_is_there_is_used(trained: Path, folder: Path, tmp_path: Path) -> None:
    """In another order of tokens, so that it cannot have been trained; also when it is resumed."""
    tokens = (trained / "vocab.txt").read_text(encoding="utf-8").splitlines()
    mine = [*tokens[:5], *reversed(tokens[5:])]
    (tmp_path / "mine.txt").write_text("\n".join(mine) + "\n", encoding="utf-8")
    settings = {k: v for k, v in SETTINGS.items() if k != "max_vocab_size"}
    arguments = ["--corpus", str(folder / "new.txt"), "--vocab", str(tmp_path / "mine.txt")]
    arguments += ["--output-dir", str(tmp_path / "run"), "--max-steps", "1"]
    assert train.main([*arguments, "--preset", "small", *flags_of(**settings)[2:]]) == 0
    assert load_vocabulary(tmp_path / "run" / "vocab.txt") == mine
    shape = model_at(tmp_path / "run", 1)["embeddings.word_embeddings.weight"].shape
    assert shape[0] == len(mine)
    for name in ("vocab.txt", "data.json"):  # stopped while the data were prepared
        (tmp_path / "run" / name).unlink()
    assert train.main(["--resume", "--output-dir", str(tmp_path / "run"), "--max-steps", "2"]) == 0
    assert load_vocabulary(tmp_path / "run" / "vocab.txt") == mine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab", "none.txt"], "cannot read the vocabulary"),
        (["--vocab", ""], "an empty name stands for no file"),
        (["--vocab", "v.txt", "--tokens", "ids.npy"], "token ids have a vocabulary already"),
        (["--vocab", "v.txt", "--init-from", "{trained}"], "a model brings its own"),
        (["--vocab", "v.txt", "--set", "max_vocab_size=99"], "leave max_vocab_size and"),
        (["--vocab", "v.txt", "--set", "max_vocab_size=2048"], "leave max_vocab_size and"),
        (["--vocab", "v.txt", "--set", "vocab_size=99"], "and vocab_size out"),
        (["--vocab", "v.txt", "--resume"], "--vocab cannot change a run that is resumed"),
        (["--init-from", "{trained}", "--resume"], "--init-from cannot change a run"),
        (["--init-from", "nothing"], "nothing"),
        (["--vocab", "ids.txt"], "ids.txt names token ids, no pieces of text: leave --vocab out"),
        (["--init-from", "v.txt"], "v.txt"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    arguments: list[str],
    message: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "vocab.txt", "v.txt")
    Path("ids.txt").write_text("".join(f"{token}\n" for token in id_vocabulary(9)))
    capsys.readouterr()
    filled = [argument.format(trained=trained) for argument in arguments]
    assert train.main([*filled, "--output-dir", "run"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "device:" not in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_the_configuration_of_such_a_run_is_printed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert train.main(["--init-from", str(trained), "--print-config", "--preset", "small"]) == 0
    printed = capsys.readouterr().out
    assert "hidden_size = 8 " in printed  # the model's
    assert "batch_size = 128 " in printed  # the preset's
    assert "max_length = 20 " in printed  # the preset's, as far as the model can read
