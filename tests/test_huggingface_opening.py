"""Directories in the Hugging Face format are opened as they are meant, or refused by name."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from electra_ref.config.model import EncoderSize, discriminator_size, generator_size
from electra_ref.errors import UserError
from electra_ref.tensor_file import TensorFile
from electra_ref.training.huggingface.configuration import configuration_of, settings_of_one
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.huggingface.opening import open_directory
from electra_ref.training.saved_model import open_model
from tests.huggingface_folders import (
    change_config,
    read_weights,
    small_run,
    write_run,
    write_weights,
)
from tests.tiny_electra import tiny_config

WORDS = "electra.embeddings.word_embeddings.weight"
OUTPUT = "generator_lm_head.weight"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both networks of the tiny model, which share their embeddings."""
    folder = tmp_path_factory.mktemp("exported")
    export_model(small_run(folder / "run"), folder / "hf", None)
    return folder / "hf"


@pytest.fixture
def pair(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "pair"))


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = read_weights(folder)
    edit(tensors)
    write_weights(folder, tensors)


def refusal(path: Path) -> str:
    """Return the one line with which ``path`` is refused."""
    with pytest.raises(UserError) as refused:
        open_model(path, "reference", "float32")
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What is read


def test_a_discriminator_alone_has_no_generator(pair: Path) -> None:
    saved = open_model(pair / "discriminator", "reference", "float32")
    config = saved.config
    assert (config.objective, config.uniform_generator, config.sharing) == (
        "electra", True, "embeddings",
    )  # fmt: skip
    assert saved.networks.generator is None
    assert saved.step == 0
    assert discriminator_size(config) == discriminator_size(tiny_config())
    assert (config.vocab_size, config.embedding_size, config.max_position_embeddings) == (13, 5, 10)
    assert config.max_length == 9  # of the rows it was trained on


def test_a_generator_alone_is_a_full_size_encoder_that_guesses(pair: Path) -> None:
    saved = open_model(pair / "generator", "reference", "float32")
    assert saved.config.objective == "mlm"
    assert saved.networks.discriminator is None
    assert saved.networks.generator is not None
    assert saved.networks.generator.size == generator_size(tiny_config())


@pytest.mark.parametrize("sharing", ["embeddings", "none", "gdes"])
def test_a_pair_shares_its_embeddings_if_they_are_the_same(sharing: str, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", sharing=sharing)
    export_model(run, tmp_path / "hf", None)
    before = open_model(run, "reference", "float32")
    after = open_model(tmp_path / "hf", "reference", "float32")
    assert after.config.sharing == ("embeddings" if sharing == "embeddings" else "none")
    for size in (discriminator_size, generator_size):
        assert size(after.config) == size(before.config)
    if sharing != "gdes":
        for name, tensor in before.parameters.views.items():
            np.testing.assert_array_equal(after.parameters[name], tensor)


@pytest.mark.parametrize("name", ["LayerNorm.bias", "position_embeddings.weight"])
def test_one_number_of_difference_is_enough_not_to_share(pair: Path, name: str) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors[f"electra.embeddings.{name}"].reshape(-1)[-1] += 0.25

    edit_weights(pair / "generator", edit)
    saved = open_model(pair, "reference", "float32")
    assert saved.config.sharing == "none"
    ours = name.replace("LayerNorm", "layer_norm")
    difference = (
        saved.parameters[f"generator.embeddings.{ours}"] - saved.parameters[f"embeddings.{ours}"]
    )
    assert np.count_nonzero(difference) == 1


@pytest.mark.parametrize(
    ("size", "own"),
    [
        (EncoderSize(128, 1, 2, 512), (0, 0)),  # what would be derived
        (EncoderSize(128, 3, 4, 512), (4, 0)),
        (EncoderSize(9, 5, 3, 7), (3, 7)),
        (EncoderSize(24, 2, 1, 96), (0, 0)),
    ],
)
def test_sizes_of_a_generator_come_back_exactly(
    size: EncoderSize, own: tuple[int, int], tmp_path: Path
) -> None:
    large = tiny_config(hidden_size=24, num_attention_heads=3, num_hidden_layers=3)
    share = size.hidden_size / 24
    config = tiny_config(
        hidden_size=24, num_attention_heads=3, num_hidden_layers=3, generator_hidden_size=share,
        generator_layers=size.num_hidden_layers / 3,
        generator_num_attention_heads=size.num_attention_heads,
        generator_intermediate_size=size.intermediate_size,
    )  # fmt: skip
    assert generator_size(config) == size
    export_model(write_run(tmp_path / "run", config), tmp_path / "hf", None)
    found = open_directory(tmp_path / "hf").config
    assert (generator_size(found), discriminator_size(found)) == (size, discriminator_size(large))
    assert (found.generator_num_attention_heads, found.generator_intermediate_size) == own


def test_one_network_of_a_pair(pair: Path) -> None:
    both = open_model(pair, "reference", "float32")
    for part in ("discriminator", "generator"):
        one = open_model(pair, "reference", "float32", part=part)
        assert [p for p, n in one.networks._asdict().items() if n is not None] == [part]
        assert 0 < len(one.parameters.views) < len(both.parameters.views)
        for name, tensor in one.parameters.views.items():
            np.testing.assert_array_equal(tensor, both.parameters[name])


@pytest.mark.parametrize("part", ["discriminator", "generator"])
def test_a_folder_around_one_network(pair: Path, part: str) -> None:
    other = {"discriminator": "generator", "generator": "discriminator"}[part]
    alone = open_model(pair / part, "reference", "float32")
    shutil.rmtree(pair / other)
    around = open_model(pair, "reference", "float32")
    assert around.config == alone.config
    np.testing.assert_array_equal(around.parameters.vector, alone.parameters.vector)


def test_defaults_are_theirs(pair: Path) -> None:
    """A config.json that says nothing describes ELECTRA-small."""
    (pair / "generator" / "config.json").write_text('{"model_type": "electra"}')
    message = refusal(pair / "generator")
    assert "the model has rows for" not in message
    assert "(30522, 128)" in message


@pytest.mark.parametrize("kind", ["F16", "BF16", "F64"])
def test_other_floats(pair: Path, kind: str) -> None:
    folder = pair / "discriminator"
    exact = open_model(folder, "reference", "float64")
    tensors = read_weights(folder)
    if kind == "BF16":
        halves = {n: (t.view(np.uint32) >> 16).astype(np.uint16) for n, t in tensors.items()}
        write_weights(folder, halves)
        tolerance = 2.0**-7  # cut, not rounded
    else:
        dtype = {"F16": np.float16, "F64": np.float64}[kind]
        write_weights(folder, {n: t.astype(dtype) for n, t in tensors.items()})
        tolerance = {"F16": 2.0**-11, "F64": 0.0}[kind]
    found = open_model(folder, "reference", "float64").parameters.vector
    assert (np.abs(found - exact.parameters.vector) <= tolerance * np.abs(found) + 2.0**-25).all()
    assert open_directory(folder).dtype == ("float64" if kind == "F64" else "float32")


def test_buffers_of_old_files_are_passed_over(pair: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["electra.embeddings.position_ids"] = np.arange(10, dtype=np.int64)[None]

    for part in ("discriminator", "generator"):
        edit_weights(pair / part, add)
        open_model(pair / part, "reference")
    assert open_model(pair, "reference").config.sharing == "embeddings"


def test_a_tied_matrix_may_be_in_the_file_if_it_is_the_table(pair: Path) -> None:
    folder = pair / "generator"
    before = open_model(folder, "reference", "float32")
    edit_weights(folder, lambda tensors: tensors.update({OUTPUT: tensors[WORDS].copy()}))
    after = open_model(folder, "reference", "float32")
    np.testing.assert_array_equal(after.parameters.vector, before.parameters.vector)

    def change(tensors: dict[str, Any]) -> None:
        tensors[OUTPUT][3, 2] += 1.0

    edit_weights(folder, change)
    message = refusal(folder)
    assert f"has a {OUTPUT} that differs from {WORDS}" in message
    assert '"tie_word_embeddings": false' in message
    change_config(folder, tie_word_embeddings=False)
    untied = open_model(folder, "reference", "float32")
    assert untied.config.tie_word_embeddings is False
    matrix = untied.parameters["encoder.head.output_embeddings.weight"]
    difference = matrix - untied.parameters["embeddings.word_embeddings.weight"]
    assert np.flatnonzero(difference).tolist() == [3 * 5 + 2]


def test_an_untied_matrix_must_be_in_the_file(pair: Path) -> None:
    change_config(pair / "generator", tie_word_embeddings=False)
    assert refusal(pair / "generator").endswith(f"do not fit its config.json: it lacks {OUTPUT}")


def test_weights_in_several_files(pair: Path) -> None:
    folder = pair / "discriminator"
    before = open_model(folder, "reference", "float32")
    tensors = read_weights(folder)
    (folder / "model.safetensors").unlink()
    names = {}
    for number in range(3):
        part = dict(list(tensors.items())[number::3])
        write_weights(folder, part)
        file = f"model-0000{number + 1}-of-00003.safetensors"
        (folder / "model.safetensors").rename(folder / file)
        names.update(dict.fromkeys(part, file))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    after = open_model(folder, "reference", "float32")
    np.testing.assert_array_equal(after.parameters.vector, before.parameters.vector)

    index.write_text(json.dumps({"weight_map": {**names, "more": file}}))
    assert "lacks more, which" in refusal(folder)
    files = "../x", 3, "a\u0000.safetensors", "a\ud800.safetensors"
    damaged: list[Any] = [{}, [], *({"weight_map": {WORDS: file}} for file in files)]
    for wrong in damaged:
        index.write_text(json.dumps(wrong))
        assert "does not say which file has which tensor" in refusal(folder)
    index.write_text(json.dumps({"weight_map": names}))
    (folder / file).unlink()
    assert f"cannot read {folder / file}: No such file" in refusal(folder)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "describes a model of type 'bert'; only 'electra' is read"),
        ({"model_type": None}, "describes a model of type None"),
        ({"hidden_act": "relu"}, "has hidden_act = 'relu', and only 'gelu' is computed here"),
        ({"hidden_act": "gelu_new"}, "has hidden_act = 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "has is_decoder = True"),
        ({"add_cross_attention": True}, "has add_cross_attention = True"),
        ({"pruned_heads": {"0": [1]}}, "has pruned_heads = "),
        ({"quantization_config": {"bits": 8}}, "has quantization_config = "),
        ({"type_vocab_size": 1}, "type_vocab_size = 1 is out of its range"),
        ({"hidden_size": 7}, "2 attention heads do not divide its width 7"),
        ({"hidden_size": "8"}, "has hidden_size = '8', which should be of type int"),
        ({"hidden_size": 0}, "hidden_size = 0 is out of its range"),
        ({"hidden_dropout_prob": 2.0}, "hidden_dropout = 2.0 is out of its range"),
        ({"vocab_size": 14.0}, "has vocab_size = 14.0, which should be of type int"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(
    pair: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(pair / "discriminator", **changes)
    found = refusal(pair / "discriminator")
    assert message in found
    assert str(pair / "discriminator" / "config.json") in found


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"[]", "holds no object"), (b"\xff", "is not JSON")],
)
def test_a_damaged_configuration(pair: Path, content: bytes, message: str) -> None:
    (pair / "discriminator" / "config.json").write_bytes(content)
    assert message in refusal(pair)


def test_tensors_that_do_not_fit_are_all_named(pair: Path) -> None:
    folder = pair / "discriminator"

    def edit(tensors: dict[str, Any]) -> None:
        del tensors["discriminator_predictions.dense.bias"]
        del tensors["electra.encoder.layer.0.attention.self.key.weight"]
        tensors["classifier.weight"] = np.zeros(3, np.float32)
        tensors["electra.embeddings_project.weight"] = np.zeros((5, 8), np.float32)

    edit_weights(folder, edit)
    message = refusal(folder)
    assert message.startswith(f"the weights in {folder} do not fit its config.json: it lacks ")
    assert "discriminator_predictions.dense.bias" in message
    assert "electra.encoder.layer.0.attention.self.key.weight" in message
    assert "it has the unknown classifier.weight" in message
    assert "electra.embeddings_project.weight (5, 8) and not (8, 5)" in message


def test_other_tensors_than_the_configuration_describes(pair: Path) -> None:
    change_config(pair / "discriminator", num_hidden_layers=3)
    message = refusal(pair / "discriminator")
    assert "it lacks electra.encoder.layer.2.attention.self.query.weight" in message
    assert message.endswith(" more")
    change_config(pair / "discriminator", num_hidden_layers=2, max_position_embeddings=11)
    assert "position_embeddings.weight (10, 5) and not (11, 5)" in refusal(pair / "discriminator")


@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers", "type_vocab_size"])
def test_a_size_that_would_fill_the_memory(pair: Path, key: str) -> None:
    change_config(pair / "discriminator", **{key: 2**31 - 1})
    message = refusal(pair / "discriminator")
    assert "do not fit its config.json: " in message
    assert "2147483647" in message


def test_an_encoder_without_a_head(pair: Path) -> None:
    def behead(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            if not name.startswith("electra."):
                del tensors[name]

    edit_weights(pair / "discriminator", behead)
    message = refusal(pair / "discriminator")
    assert "has no head of pre-training: it lacks discriminator_predictions.*" in message


def test_two_heads(pair: Path) -> None:
    more = read_weights(pair / "generator")
    heads = {name: t for name, t in more.items() if not name.startswith("electra.")}
    edit_weights(pair / "discriminator", lambda tensors: tensors.update(heads))
    assert "it has the unknown generator_lm_head.bias" in refusal(pair / "discriminator")


def test_numbers_that_are_not_floats(pair: Path) -> None:
    name = "discriminator_predictions.dense.bias"

    def edit(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].astype(np.int8)

    edit_weights(pair / "discriminator", edit)
    assert f"has numbers of type I8 in {name}" in refusal(pair / "discriminator")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite(pair: Path, value: float) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors["discriminator_predictions.dense.weight"][1, 2] = value

    edit_weights(pair / "discriminator", edit)
    assert "discriminator.head.dense.weight has NaN or infinity" in refusal(pair / "discriminator")


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_file_of_weights(pair: Path, content: bytes | None) -> None:
    path = pair / "generator" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert f"cannot read {path}: it is " in refusal(pair)


@pytest.mark.parametrize("has_pickle", [False, True])
def test_another_kind_of_model_is_named_before_its_files_are_read(
    pair: Path, has_pickle: bool
) -> None:
    folder = pair / "discriminator"
    write_weights(folder, {"bert.embeddings.LayerNorm.weight": np.ones(3, np.float32)})
    if has_pickle:
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    change_config(folder, model_type="bert")
    assert refusal(folder).endswith("a model of type 'bert'; only 'electra' is read")


def test_a_pickle_alone_is_not_read(pair: Path) -> None:
    folder = pair / "generator"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "has its weights in pytorch_model.bin only, a pickle" in message
    assert "ElectraForMaskedLM as Model" in message
    assert message.endswith(f" {folder} {folder}-safetensors")
    strange: Any
    for strange in (5, {"a": 1}, [[]], []):
        change_config(folder, architectures=strange)
        assert "ElectraForPreTraining as Model" in refusal(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "has a config.json and no model.safetensors" in refusal(folder)


def test_the_two_folders_under_each_others_names(pair: Path) -> None:
    (pair / "generator").rename(pair / "x")
    (pair / "discriminator").rename(pair / "generator")
    (pair / "x").rename(pair / "discriminator")
    message = refusal(pair)
    assert message == f"the folder {pair / 'discriminator'} holds a generator: give it that name"


@pytest.mark.parametrize("key", ["max_position_embeddings", "layer_norm_eps", "type_vocab_size"])
def test_two_networks_that_cannot_be_one_runs(pair: Path, key: str) -> None:
    change_config(pair / "generator", **{key: 3})
    if key == "layer_norm_eps":
        change_config(pair / "generator", **{key: 1e-5})
    message = refusal(pair)
    assert f"the two networks in {pair} have {key} = " in message
    assert "name one of the two folders" in message


def test_two_networks_with_different_vocabularies(pair: Path) -> None:
    folder = pair / "generator"
    words = (folder / "vocab.txt").read_text().split()
    words[-1], words[-2] = words[-2], words[-1]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer.json").unlink()
    assert f"the two networks in {pair} have different vocabularies" in refusal(pair)


@pytest.mark.parametrize("width", [511, 512, 700, 1000, 1023])
def test_a_width_that_no_generator_could_have_a_quarter_of(width: int) -> None:
    """The generator that there is not must not stand in the way."""
    for part in ("discriminator", "generator"):
        config = settings_of_one(
            Path("x"), part, {"hidden_size": width, "num_attention_heads": 1, "vocab_size": 9}, {}
        )
        assert config.hidden_size == width


def test_what_is_written_is_read() -> None:
    config = tiny_config(layer_norm_eps=1e-5, hidden_dropout=0.2, attention_dropout=0.3)
    written = configuration_of(config, generator_size(config), "generator", 4)
    assert written["architectures"] == ["ElectraForMaskedLM"]
    assert written["pad_token_id"] == 4
    assert (written["hidden_size"], written["intermediate_size"]) == (4, 16)
    assert (written["hidden_dropout_prob"], written["attention_probs_dropout_prob"]) == (0.2, 0.3)
    assert (written["layer_norm_eps"], written["dtype"]) == (1e-5, "float32")


# Memory

SIZES: dict[str, Any] = {
    "vocab_size": 2900, "embedding_size": 96, "hidden_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "intermediate_size": 1024, "generator_hidden_size": 0.5,
}  # fmt: skip
MEASURE = """
import sys, tracemalloc
from pathlib import Path
from electra_ref.training.saved_model import open_model
from electra_ref.backends import open_backend
open_model(Path(sys.argv[2]), "reference", "float32")  # imports and caches
tracemalloc.start()
model = open_model(Path(sys.argv[1]), "reference", "float32")
print(tracemalloc.get_traced_memory()[1] / model.parameters.vector.nbytes)
"""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_memory_of_opening(dtype: str, exported: Path, tmp_path: Path) -> None:
    """At most 1.2 times the weights, of a pair too, whatever the numbers in the file."""
    export_model(small_run(tmp_path / "run", **SIZES), tmp_path / "hf", None)
    if dtype == "float16":
        for part in ("discriminator", "generator"):
            tensors = read_weights(tmp_path / "hf" / part)
            halves = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
            write_weights(tmp_path / "hf" / part, halves)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "hf"), str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert 1.0 <= float(done.stdout) <= 1.2


def test_the_file_says_what_every_version_of_transformers_wants(exported: Path) -> None:
    for part in ("discriminator", "generator"):
        path = exported / part / "model.safetensors"
        with safetensors.safe_open(path, "np") as stream:
            assert stream.metadata() == {"format": "pt"}
        with TensorFile(path) as file:
            assert {entry.dtype for entry in file.entries.values()} == {"F32"}
            assert all(entry.first % 4 == 0 for entry in file.entries.values())
