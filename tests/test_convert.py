"""The command ``convert``: both directions, both networks or one, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import convert, train
from electra_ref.errors import UserError
from electra_ref.files import write_new_file
from electra_ref.text.token_ids import id_vocabulary
from electra_ref.training.huggingface import exporting
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.huggingface.importing import import_model
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import open_model
from tests.file_system_calls import Killed, counting, fail_at, kill_at, watching
from tests.huggingface_folders import (
    draw_batch,
    our_logits,
    read_weights,
    small_run,
    write_run,
    write_weights,
)
from tests.tiny_electra import tiny_config
from tests.variants import VARIANTS

FILES = sorted([
    "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.txt",
])  # fmt: skip


def run_command(*arguments: object) -> int:
    return convert.main([str(argument) for argument in arguments])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line with which the arguments are refused."""
    assert run_command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("python -m electra_ref.convert: error: ").rstrip()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hf") / "hf"
    export_model(run, target, None)
    return target


def variant_config(name: str, **changes: Any) -> Any:
    settings = {"max_length": 17, "max_position_embeddings": 18, **VARIANTS[name], **changes}
    return tiny_config(**settings)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(name: str, untied: bool, tmp_path: Path) -> None:
    """The imported networks answer what the run's do, and give the same files again."""
    if untied and "uniform" in name:
        return
    config = variant_config(name, tie_word_embeddings=not untied)
    run = write_run(tmp_path / "run", config)
    written = export_model(run, tmp_path / "hf", None)
    import_model(tmp_path / "hf", tmp_path / "back", None)
    again = export_model(tmp_path / "back", tmp_path / "again", None)
    assert [each.part for each in again] == [each.part for each in written]
    back = open_model(tmp_path / "back", "reference", "float32").config
    if any(each.part == "discriminator" for each in written):
        assert back.discriminator_input == config.discriminator_input
    for each in written:
        other = tmp_path / "again" / each.part / "model.safetensors"
        assert other.read_bytes() == (each.path / "model.safetensors").read_bytes()
    batch = draw_batch(config, 0)
    before = our_logits(open_model(run, "reference", "float64"), batch)
    for path in (tmp_path / "hf", tmp_path / "back"):
        after = our_logits(open_model(path, "reference", "float64"), batch)
        assert after.keys() == before.keys() == {each.part for each in written}
        for part, logits in before.items():
            error = np.linalg.norm(after[part] - logits) / np.linalg.norm(logits)
            assert error <= 1e-12


def test_which_networks_a_run_has(tmp_path: Path) -> None:
    parts = {}
    for name in ("electra", "mlm", "replace-mlm", "all-tokens-mlm", "uniform generator"):
        run = write_run(tmp_path / name / "run", variant_config(name))
        written = export_model(run, tmp_path / name / "hf", None)
        parts[name] = [each.part for each in written]
        assert names_in(tmp_path / name / "hf") == sorted(parts[name])
    assert parts == {
        "electra": ["discriminator", "generator"],
        "mlm": ["generator"],
        "replace-mlm": ["generator"],
        "all-tokens-mlm": ["discriminator", "generator"],
        "uniform generator": ["discriminator"],
    }


def test_both_networks_are_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deep" / "hf"
    assert run_command("--from", run, "--to", target) == 0
    assert names_in(tmp_path / "deep") == ["hf"]
    assert names_in(target) == ["discriminator", "generator"]
    for part in names_in(target):
        assert names_in(target / part) == FILES
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert re.fullmatch(
        rf"{target}/discriminator: discriminator, [\d,]+ parameters, step 7", lines[0]
    )
    assert lines[1].startswith(f"{target}/generator: generator, ")
    assert lines[3] == "from transformers import AutoModelForPreTraining, AutoTokenizer"
    assert f"from_pretrained('{target}/discriminator')" in lines[4]


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_one_network_goes_to_the_folder_itself(
    part: str, run: Path, exported: Path, tmp_path: Path
) -> None:
    assert run_command("--from", run, "--to", tmp_path / "one", "--part", part) == 0
    assert names_in(tmp_path / "one") == FILES
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (exported / part / name).read_bytes()


def test_a_discriminator_alone_is_the_sum_of_its_tables(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", sharing="gdes")
    export_model(run, tmp_path / "both", None)
    export_model(run, tmp_path / "one", "discriminator")
    one, both = (tmp_path / "one", tmp_path / "both" / "discriminator")
    assert (one / "model.safetensors").read_bytes() == (both / "model.safetensors").read_bytes()


def test_the_working_folder_may_be_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    assert run_command("--from", ".", "--to", tmp_path / "hf") == 0
    monkeypatch.chdir(tmp_path / "hf")
    assert run_command("--from", ".", "--to", "../back") == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-2]
        .endswith("--init-from ../back --corpus FILE --set steps=N --set warmup_steps=M")
    )
    assert open_model(tmp_path / "back", "reference").step == 0


def test_a_checkpoint_is_written_as_its_run(run: Path, exported: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "step-00000007"
    assert run_command("--from", checkpoint, "--to", tmp_path / "hf") == 0
    for part in ("discriminator", "generator"):
        for name in FILES:
            found = (tmp_path / "hf" / part / name).read_bytes()
            assert found == (exported / part / name).read_bytes()


def test_a_directory_becomes_a_run(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "run"
    assert run_command("--from", exported, "--to", target) == 0
    out, _ = capsys.readouterr()
    first, train_line, predict_line = out.splitlines()
    assert first.startswith(f"{target}: a run at step 0 with discriminator and generator, ")
    assert train_line == (  # a model without a preset would train for a million steps
        f"python -m electra_ref.train --init-from {target} --corpus FILE "
        "--set steps=N --set warmup_steps=M"
    )
    assert predict_line == f"python -m electra_ref.predict --model {target} --task rtd"
    before = open_model(run, "reference", "float32")
    for path in (target, target / "checkpoints" / "step-00000000"):
        after = open_model(path, "reference", "float32")
        assert after.step == 0
        assert after.tokenizer.vocab == before.tokenizer.vocab
        assert after.config.sharing == "embeddings"
        np.testing.assert_array_equal(after.parameters.vector, before.parameters.vector)


def test_a_model_of_ids_is_trained_on_with_ids(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported / "generator", tmp_path / "hf"))
    count = len((folder / "vocab.txt").read_text().splitlines())
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in id_vocabulary(count - 6)))
    (folder / "tokenizer.json").unlink()
    assert run_command("--from", folder, "--to", tmp_path / "run") == 0
    assert "--tokens FILE.npy --set steps=N" in capsys.readouterr().out.splitlines()[1]


def test_a_run_with_an_export_in_its_folder_is_a_run(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert run_command("--from", run, "--to", copy / "discriminator", "--part=discriminator") == 0
    assert run_command("--from", copy, "--to", tmp_path / "hf") == 0
    assert names_in(tmp_path / "hf") == ["discriminator", "generator"]


def test_an_imported_run_cannot_be_resumed(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_model(exported, tmp_path / "a run", None)
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.name != ".lock" and path.is_file()
    }
    assert train.main(["--resume", "--output-dir", str(tmp_path / "a run")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "was imported and never trained, so there is nothing to resume" in message
    assert f"--init-from '{tmp_path / 'a run'}'" in message
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_discriminator_of_pairs_stays_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", variant_config("paired"))
    (network,) = export_model(run, tmp_path / "hf", "discriminator")
    assert "[CLS] original [SEP] replaced [SEP]" in (network.path / "README.md").read_text()
    assert open_model(tmp_path / "hf", "reference", "float32").config.reads_pairs
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"paired"', '"triples"'))
    with pytest.raises(UserError, match="has discriminator_input = 'triples', not one of replac"):
        open_model(tmp_path / "hf", "reference", "float32")


def test_numbers_that_are_rounded_are_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    double = write_run(tmp_path / "run", variant_config("electra", precision="float64"))
    assert run_command("--from", double, "--to", tmp_path / "hf") == 0
    assert "rounded from float64 to float32" in capsys.readouterr().err
    assert run_command("--from", run, "--to", tmp_path / "other") == 0
    assert "rounded" not in capsys.readouterr().err


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_one_network_of_a_pair_is_imported(part: str, exported: Path, tmp_path: Path) -> None:
    assert run_command("--from", exported, "--to", tmp_path / "run", "--part", part) == 0
    saved = open_model(tmp_path / "run", "reference", "float32")
    assert [p for p, n in saved.networks._asdict().items() if n is not None] == [part]
    alone = open_model(exported / part, "reference", "float32")
    np.testing.assert_array_equal(saved.parameters.vector, alone.parameters.vector)


def test_double_precision_is_kept_by_a_run(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported / "generator", tmp_path / "x"))
    tensors = {n: t.astype(np.float64) + 1e-12 for n, t in read_weights(folder).items()}
    write_weights(folder, tensors)
    import_model(folder, tmp_path / "run", None)
    saved = open_model(tmp_path / "run", "reference", "float64")
    found = saved.parameters["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(found, tensors["electra.embeddings.word_embeddings.weight"])


def test_numbers_that_are_not_finite_are_not_imported(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(exported / "generator", tmp_path / "x"))
    tensors = read_weights(folder)
    tensors["generator_predictions.dense.bias"][0] = np.nan
    write_weights(folder, tensors)
    message = refusal(capsys, "--from", folder, "--to", tmp_path / "run")
    assert "NaN or infinity" in message
    assert names_in(tmp_path) == ["x"]


def test_a_directory_is_written_anew(exported: Path, tmp_path: Path) -> None:
    """Half the precision becomes float32, for example."""
    folder = Path(shutil.copytree(exported / "generator", tmp_path / "half"))
    write_weights(folder, {n: t.astype(np.float16) for n, t in read_weights(folder).items()})
    arguments = ("--from", folder, "--to", tmp_path / "hf", "--format", "huggingface")
    assert run_command(*arguments) == 0
    assert names_in(tmp_path / "hf") == ["generator"]
    for name, tensor in read_weights(tmp_path / "hf" / "generator").items():
        expected = read_weights(exported / "generator")[name].astype(np.float16)
        np.testing.assert_array_equal(tensor, expected.astype(np.float32))
    card = (tmp_path / "hf" / "generator" / "README.md").read_text()
    assert "a model of other origin" in card
    assert "## Training" not in card


# The model card


def test_the_card_has_the_figures_of_the_step(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"documents": 12_345, "notes": ["| <b>note</b>"], "bytes": "many"}
    run = write_run(tmp_path / "run", tiny_config(learning_rate=0.25), **facts)
    records: list[dict[str, Any]] = [
        {"step": 5, "split": "held_out", "mlm_loss": 3.0, "earlier_loss": 1.0},
        {"step": 6, "split": "training", "mlm_loss": 9876.0},
        {"step": 7, "split": "held_out", "mlm_loss": 2.5, "rtd_auc": None, "x|y": 1.0, "a": "<b>"},
        {"step": 8, "split": "held_out", "mlm_loss": 1.0},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(text)
    export_model(run, tmp_path / "hf", None)
    card = (tmp_path / "hf" / "generator" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: fill-mask\ntags:\n")
    lines = (
        "| step | 7 |", "| mlm_loss | 2.5 |", "| documents | 12,345 |", "| learning_rate | 0.25 |",
        "| lowercase | true |", "| hidden_size | 4 |",
    )  # fmt: skip
    assert {*lines} <= {*card.splitlines()}
    for absent in ("earlier_loss", "note", "x|y", "<b>", "many", "9876", str(tmp_path), "rtd_auc"):
        assert absent not in card
    discriminator = (tmp_path / "hf" / "discriminator" / "README.md").read_text()
    assert "pipeline_tag" not in discriminator
    assert "| hidden_size | 8 |" in discriminator


def test_figures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("damaged\n{}\n")
    export_model(run, tmp_path / "hf", None)
    card = (tmp_path / "hf" / "generator" / "README.md").read_text()
    assert "## Training" in card
    assert "Held-out" not in card


def test_a_run_that_was_never_trained_has_no_training_on_its_card(
    exported: Path, tmp_path: Path
) -> None:
    import_model(exported, tmp_path / "run", None)
    export_model(tmp_path / "run", tmp_path / "hf", None)
    card = (tmp_path / "hf" / "generator" / "README.md").read_text()
    assert "a model of other origin" in card
    assert "step 0" not in card


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --from, --to"),
        (["--from", "x"], "the following arguments are required: --to"),
        (["--from", "", "--to", "y"], "an empty name stands for no folder"),
        (["--from", "{run}", "--to", "{tmp}/y", "--format", "onnx"], "invalid choice: 'onnx'"),
        (["--from", "{run}", "--to", "{tmp}/y", "--part", "x"], "invalid choice: 'x'"),
        (["--from", "{tmp}/nothing", "--to", "{tmp}/y"], "/nothing"),
        (["--from", "{run}", "--to", "{run}"], "holds a run, which is never overwritten; choose"),
        (["--from", "{hf}", "--to", "{hf}"], "holds something else (discriminator), which is"),
        (["--from", "{run}", "--to", "{run}/vocab.txt"], "vocab.txt is not a folder"),
        (["--from", "{run}", "--to", "{tmp}/y", "--format", "electra-ref"], "needs no conversion"),
        (
            ["--from", "{hf}/generator", "--to", "{tmp}/y", "--part", "discriminator"],
            "generator holds no discriminator: its network is a generator",
        ),
    ],
)
def test_wrong_arguments_are_one_line(
    arguments: list[str],
    message: str,
    run: Path,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(run=run, hf=exported, tmp=tmp_path) for argument in arguments]
    assert message in refusal(capsys, *given)
    assert names_in(tmp_path) == []


def test_a_network_that_a_run_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", variant_config("mlm"))
    arguments = ("--from", run, "--to", tmp_path / "y", "--part", "discriminator")
    assert "has no discriminator: " in refusal(capsys, *arguments)
    assert names_in(tmp_path) == ["run"]


# Complete or not at all


def complete(folder: Path) -> bool:
    return folder.exists() and (
        names_in(folder) == ["discriminator", "generator"]
        and all(names_in(folder / part) == FILES for part in names_in(folder))
    )


def count_calls(source: Path, target: Path, *, back: bool) -> int:
    seen: list[str] = []
    with watching(counting(seen)):
        transfer(source, target, back=back)
    return len(seen)


def transfer(source: Path, target: Path, *, back: bool) -> None:
    if back:
        import_model(source, target, None)
    else:
        export_model(source, target, None)


def is_whole(target: Path, *, back: bool) -> bool:
    if not back:
        return complete(target)
    return open_model(target, "reference", "float32").step == 0


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("back", [False, True], ids=["export", "import"])
def test_a_kill_leaves_all_or_nothing(
    back: bool, run: Path, exported: Path, tmp_path: Path
) -> None:
    source = exported if back else run
    calls = count_calls(source, tmp_path / "count", back=back)
    outcomes = set()
    for number in range(0, calls, 3):
        target = tmp_path / str(number)
        with pytest.raises(Killed), watching(kill_at(number)):
            transfer(source, target, back=back)
        outcomes.add(target.exists())
        assert not target.exists() or is_whole(target, back=back)
    assert False in outcomes


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("back", [False, True], ids=["export", "import"])
def test_a_full_disk_is_reported_and_leaves_nothing(
    back: bool, run: Path, exported: Path, tmp_path: Path
) -> None:
    source = exported if back else run
    calls = count_calls(source, tmp_path / "count", back=back)
    refused = 0
    for number in range(0, calls, 2):
        target = tmp_path / f"n{number}" / "x"
        hook = fail_at(number, errno.ENOSPC, kinds=("write", "mkdir", "fsync"), forever=True)
        message = ""
        try:
            with watching(hook):
                transfer(source, target, back=back)
        except UserError as error:
            message = str(error)
        assert ("No space left on device" in message) == (message != "")
        refused += message != ""
        if target.exists():  # at most the last word from the disk is missing
            assert is_whole(target, back=back)
        else:
            assert not target.parent.exists()
    assert refused > 10


def test_a_signal_stops_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tensors; nothing is left."""
    seen: list[str] = []

    def signalled(path: Path, data: bytes) -> None:
        write_new_file(path, data)
        seen.append(path.name)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(exporting, "write_new_file", signalled)
    assert run_command("--from", run, "--to", tmp_path / "hf") == 143
    assert names_in(tmp_path) == []


def test_a_large_export_needs_little_memory(tmp_path: Path) -> None:
    """One tensor at a time is laid out; the model is there once."""
    run = small_run(
        tmp_path / "run", vocab_size=2000, embedding_size=128, hidden_size=256,
        num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        generator_hidden_size=0.5,
    )  # fmt: skip
    small = small_run(tmp_path / "small")
    code = (
        "import sys, tracemalloc\n"
        "from pathlib import Path\n"
        "from electra_ref.training.huggingface.exporting import export_model\n"
        "export_model(Path(sys.argv[1]), Path(sys.argv[1] + '-hf'), None)\n"
        "tracemalloc.start()\n"
        "done = export_model(Path(sys.argv[2]), Path(sys.argv[2] + '-hf'), None)\n"
        "print(tracemalloc.get_traced_memory()[1] / sum(4 * each.parameters for each in done))\n"
    )
    command = [sys.executable, "-c", code, str(small), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) <= 1.2


def test_the_lock_of_an_imported_run_is_free(exported: Path, tmp_path: Path) -> None:
    import_model(exported, tmp_path / "run", None)
    with RunDirectory.resume(tmp_path / "run"):
        pass
