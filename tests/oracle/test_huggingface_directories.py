"""Directories that transformers writes and reads: logits, numbers bit for bit, ids of text.

Models of random sizes go both ways, and there and back. Errors are norms of differences relative to
norms. Measured with transformers 4.57.6 and 5.24.0: see the bounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import convert
from electra_ref.arrays import Array
from electra_ref.batch import SPECIAL_TOKENS, Batch
from electra_ref.config.model import discriminator_size
from electra_ref.config.pretraining import PretrainingConfig
from electra_ref.errors import UserError
from electra_ref.text.vocabulary import train_vocabulary
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.huggingface.configuration import configuration_of
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.huggingface.importing import import_model
from electra_ref.training.huggingface.tokenizer_files import read_tokenizer, tokenizer_files
from electra_ref.training.saved_model import open_model
from tests.huggingface_folders import (
    draw_batch,
    our_logits,
    read_weights,
    vocabulary_of,
    write_run,
)
from tests.oracle.huggingface_weights import relative_error
from tests.oracle.test_tokenizers import draw_texts

torch: Any = pytest.importorskip("torch", reason="needs the extra: oracle")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra: oracle")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
MODELS = 24
AUTO = {
    "discriminator": transformers.AutoModelForPreTraining,
    "generator": transformers.AutoModelForMaskedLM,
}
CLASSES = {
    "discriminator": transformers.ElectraForPreTraining,
    "generator": transformers.ElectraForMaskedLM,
}
OBJECTIVES = ("electra", "electra-15", "replace-mlm", "all-tokens-mlm", "mlm", "uniform")
SHARING = ("embeddings", "none", "gdes", "all")


def draw_config(seed: int) -> PretrainingConfig:
    """Draw a model: each fact of the list that the format must bear comes up for some seeds."""
    random = np.random.default_rng([seed, 10])

    def number(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    heads, layers = number(1, 4), 1 if seed % 4 == 0 else number(1, 3)
    hidden = heads * (2 * number(1, 5) + 1)
    objective, sharing = OBJECTIVES[seed % 6], SHARING[seed // 6 % 4]
    uniform = objective == "uniform"
    objective = "electra" if uniform else objective
    if uniform or objective == "mlm":
        sharing = "embeddings"
    if sharing == "gdes" and not objective.startswith("electra"):
        sharing = "embeddings"
    own = not uniform and objective != "mlm" and sharing != "all"
    small_heads = number(1, 3)
    small = hidden if sharing == "all" else small_heads * number(1, 6)
    return PretrainingConfig(
        preset="custom",
        vocab_size=number(30, 90),
        embedding_size=hidden if seed % 3 == 0 else number(3, 17),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=number(5, 40),
        max_position_embeddings=number(9, 24),
        type_vocab_size=number(2, 5),
        max_length=8,
        sharing=sharing,
        objective=objective,
        uniform_generator=uniform,
        generator_hidden_size=small / hidden,
        generator_layers=1.0 if sharing == "all" else number(1, 3) / layers,
        generator_num_attention_heads=small_heads if own else 0,
        generator_intermediate_size=number(5, 30) if own else 0,
        tie_word_embeddings=uniform or bool(number(0, 1)),
        layer_norm_eps=float(random.choice([1e-12, 1e-5])),
        lowercase=bool(number(0, 1)),
        strip_accents=bool(number(0, 1)),
    )


def load(folder: Path, part: str, dtype: str) -> Any:
    """Return what the Auto class makes of ``folder``; every tensor of its class is in the file."""
    torch.set_num_threads(1)
    model, info = AUTO[part].from_pretrained(folder, output_loading_info=True)
    assert type(model) is CLASSES[part]
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    return model.to(getattr(torch, dtype)).eval()


def their_logits(model: Any, batch: Batch) -> Array:
    """Return (B T,) or (B T, V)."""
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(batch.input_ids).long(),
            token_type_ids=torch.tensor(batch.token_type_ids).long(),
            attention_mask=torch.tensor(batch.attention_mask).long(),
        ).logits
    found: Array = logits.numpy().reshape(batch.input_ids.size, -1)
    return found


def assert_same_logits(ours: Array, theirs: Array, batch: Batch, dtype: str) -> None:
    """Compare at all tokens; padding attends to nothing that matters."""
    rows = batch.attention_mask.reshape(-1)
    ours = ours.reshape(len(rows), -1)
    assert relative_error(ours[rows], theirs[rows]) <= BOUNDS[dtype]


@pytest.mark.parametrize("seed", range(MODELS))
def test_a_run_becomes_directories(seed: int, tmp_path: Path) -> None:
    config = draw_config(seed)
    run = write_run(tmp_path / "run", config, seed)
    written = export_model(run, tmp_path / "hf", None)
    batch = draw_batch(config, seed)
    for dtype in BOUNDS:
        ours = our_logits(open_model(run, "reference", dtype), batch)
        assert {each.part for each in written} == ours.keys()
        for each in written:
            model = load(each.path, each.part, dtype)
            assert sum(tensor.numel() for tensor in model.parameters()) == each.parameters
            assert_same_logits(ours[each.part], their_logits(model, batch), batch, dtype)


@pytest.mark.parametrize("seed", range(MODELS))
def test_there_and_back(seed: int, tmp_path: Path) -> None:
    """The directories opened as they are, imported, and exported again: the same bits."""
    config = draw_config(seed)
    run = write_run(tmp_path / "run", config, seed)
    export_model(run, tmp_path / "hf", None)
    import_model(tmp_path / "hf", tmp_path / "imported", None)
    again = export_model(tmp_path / "imported", tmp_path / "again", None)
    batch = draw_batch(config, seed)
    expected = our_logits(open_model(tmp_path / "imported", "reference", "float64"), batch)
    directly = our_logits(open_model(tmp_path / "hf", "reference", "float64"), batch)
    for each in again:
        before = tmp_path / "hf" / each.part
        assert (each.path / "model.safetensors").read_bytes() == (
            before / "model.safetensors"
        ).read_bytes()
        for name in ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
            assert (each.path / name).read_text() == (before / name).read_text()
        np.testing.assert_array_equal(directly[each.part], expected[each.part])


def draw_theirs(config: PretrainingConfig, part: str, seed: int) -> Any:
    """Return a model of theirs with numbers of our drawing, none at its initial value."""
    size = discriminator_size(config)
    values = configuration_of(config, size, part, 0)
    torch.manual_seed(seed)
    model = CLASSES[part](transformers.ElectraConfig(**values))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model.eval()


def save_theirs(model: Any, config: PretrainingConfig, folder: Path) -> None:
    """Write a directory as transformers does, its tokenizer too."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{t}\n" for t in vocabulary_of(config.vocab_size)))
    kind = transformers.AutoTokenizer.from_pretrained(folder, do_lower_case=config.lowercase)
    (folder / "vocab.txt").unlink()
    kind.save_pretrained(folder)


@pytest.mark.parametrize("part", CLASSES)
@pytest.mark.parametrize("seed", range(MODELS))
def test_a_directory_of_theirs_is_read(part: str, seed: int, tmp_path: Path) -> None:
    config = draw_config(seed)
    config = dataclasses.replace(config, tie_word_embeddings=part != "generator" or seed % 2 == 0,
                                 uniform_generator=False, objective="electra",
                                 sharing="embeddings", strip_accents=True)  # fmt: skip
    model = draw_theirs(config, part, seed)
    save_theirs(model, config, tmp_path / "theirs")
    assert (tmp_path / "theirs" / "tokenizer.json").exists()
    batch = draw_batch(config, seed)
    saved = open_model(tmp_path / "theirs", "reference", "float64")
    assert (saved.config.lowercase, len(saved.tokenizer.vocab)) == (
        config.lowercase, config.vocab_size,
    )  # fmt: skip
    for dtype in BOUNDS:
        ours = our_logits(open_model(tmp_path / "theirs", "reference", dtype), batch)
        assert ours.keys() == {part}
        theirs = their_logits(model.to(getattr(torch, dtype)), batch)
        assert_same_logits(ours[part], theirs, batch, dtype)
    import_model(tmp_path / "theirs", tmp_path / "run", None)
    (written,) = export_model(tmp_path / "run", tmp_path / "back", None)
    assert written.part == part
    before, after = read_weights(tmp_path / "theirs"), read_weights(written.path)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("shares", [True, False])
def test_a_pair_of_theirs_is_read(shares: bool, tmp_path: Path) -> None:
    """Of different sizes, with the embeddings in common or not."""
    large = draw_config(3)
    small = dataclasses.replace(
        large,
        hidden_size=6,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=7,
        tie_word_embeddings=True,
    )
    models = {"discriminator": draw_theirs(large, "discriminator", 1),
              "generator": draw_theirs(small, "generator", 2)}  # fmt: skip
    if shares:
        table = models["discriminator"].electra.embeddings.state_dict()
        models["generator"].electra.embeddings.load_state_dict(table)
    for part, model in models.items():
        save_theirs(model, large, tmp_path / part)
    saved = open_model(tmp_path, "reference", "float64")
    assert saved.config.sharing == ("embeddings" if shares else "none")
    batch = draw_batch(large, 0)
    ours = our_logits(saved, batch)
    for part, model in models.items():
        theirs = their_logits(model.double(), batch)
        assert_same_logits(ours[part], theirs, batch, "float64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_of_theirs(dtype: str, tmp_path: Path) -> None:
    config = draw_config(3)
    model = draw_theirs(config, "discriminator", 1).to(getattr(torch, dtype))
    save_theirs(model, config, tmp_path)
    batch = draw_batch(config, 0)
    ours = our_logits(open_model(tmp_path, "reference", "float64"), batch)["discriminator"]
    assert_same_logits(ours, their_logits(model.double(), batch), batch, "float64")


@pytest.mark.parametrize("part", CLASSES)
def test_a_pickle_is_refused_and_the_command_that_is_named_works(part: str, tmp_path: Path) -> None:
    config = draw_config(3)
    model = draw_theirs(config, part, 1)
    folder = tmp_path / "it's a folder"
    save_theirs(model, config, folder)
    expected = read_weights(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle") as refused:
        open_model(folder, "reference")
    command = str(refused.value).partition("model.safetensors: ")[2]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}  # where ``python`` is the one of the tests
    subprocess.run(
        command, shell=True, check=True, capture_output=True, timeout=300, env=environment
    )
    anew = tmp_path / "it's a folder-safetensors"
    open_model(anew, "reference")
    found = read_weights(anew)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_two_lines_that_are_printed_load_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", draw_config(0))
    assert convert.main(["--from", str(run), "--to", str(tmp_path / "hf")]) == 0
    lines = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = {}
    exec("\n".join(lines[-2:]), found)
    assert type(found["model"]) is CLASSES["discriminator"]
    assert found["tokenizer"]("a").input_ids[0] == found["tokenizer"].cls_token_id


@pytest.mark.parametrize(
    ("lowercase", "strip_accents"), [(True, True), (True, False), (False, False)]
)
def test_their_tokenizer_gives_our_ids(
    lowercase: bool, strip_accents: bool, tmp_path: Path
) -> None:
    """Of varied texts, pairs of them, a long word; then read back from what they save."""
    random = np.random.default_rng([lowercase, strip_accents])
    texts = draw_texts(2_000, random)
    vocabulary = train_vocabulary(texts, 20_000, lowercase=lowercase, strip_accents=strip_accents)
    vocabulary = [t for t in vocabulary if t in SPECIAL_TOKENS or random.random() < 0.97]
    order = random.permutation(len(vocabulary)).tolist()  # special tokens anywhere
    vocabulary = [vocabulary[i] for i in order]
    ours = WordPiece(vocabulary, lowercase=lowercase, strip_accents=strip_accents)
    for name, text in tokenizer_files(
        vocabulary, lowercase=lowercase, strip_accents=strip_accents, longest_row=64
    ).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "electra"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    assert (theirs.model_max_length, theirs.padding_side) == (64, "right")
    special = ours.special_tokens
    names = ("pad", "unk", "cls", "sep", "mask")
    assert [getattr(theirs, f"{name}_token_id") for name in names] == list(special)
    texts += ["a" * 100, "a" * 101, "é" * 100, ""]
    encoded = theirs(texts).input_ids
    for text, ids in zip(texts, encoded, strict=True):
        assert ids == [special.cls, *ours.encode(text), special.sep], ascii(text)
    pair = theirs(texts[0], texts[1])
    first, second = map(ours.encode, texts[:2])
    assert pair.input_ids == [special.cls, *first, special.sep, *second, special.sep]
    assert pair.token_type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)

    theirs.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "config.json", tmp_path / "saved")
    again = read_tokenizer(tmp_path / "saved", len(vocabulary))
    assert again.wordpiece.vocab == tuple(vocabulary)
    assert (again.settings["lowercase"], again.settings["strip_accents"] and lowercase) == (
        lowercase, strip_accents,
    )  # fmt: skip
