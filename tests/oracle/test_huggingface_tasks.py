"""Fine-tuned models in directories that transformers writes and reads: logits, bits, labels.

Models of random sizes go both ways, and there and back. Errors are norms of differences relative to
norms. Measured with transformers 4.57.6 and 5.24.0: see the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref.arrays import Array
from electra_ref.batch import Batch
from electra_ref.model.objectives import fine_tuning
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.huggingface.configuration import configuration_of
from electra_ref.training.huggingface.fine_tuned import is_fine_tuned, open_fine_tuned, own_settings
from electra_ref.training.huggingface.head_configuration import head_keys
from electra_ref.training.huggingface.model_card import loading_lines
from electra_ref.training.huggingface.names import TASK_CLASSES
from tests.huggingface_folders import read_weights, vocabulary_of
from tests.huggingface_tasks import CASES, draw_rows, draw_stored, export, our_answers
from tests.oracle.huggingface_weights import relative_error

torch: Any = pytest.importorskip("torch", reason="needs the extra: oracle")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra: oracle")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
CHOICES = 3
MODELS = 4 * len(CASES)
PROBLEMS = {
    "two labels": "single_label_classification",
    "many labels": "single_label_classification",
    "several labels a text": "multi_label_classification",
    "a number": "regression",
}


def case_of(seed: int) -> str:
    return [*CASES][seed % len(CASES)]


def draw_model(seed: int) -> StoredTask:
    """Draw a model: odd and equal widths, one layer, cased text, other epsilons come up."""
    random = np.random.default_rng([seed, 11])
    round_ = seed // len(CASES)

    def number(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    heads = number(1, 4)
    hidden = heads * (2 * number(1, 5) + 1)
    return draw_stored(
        case_of(seed),
        seed,
        vocab_size=number(30, 90),
        embedding_size=hidden if round_ == 1 else number(3, 17),
        hidden_size=hidden,
        num_hidden_layers=1 if round_ == 0 else number(1, 3),
        num_attention_heads=heads,
        intermediate_size=number(5, 40),
        max_position_embeddings=number(9, 24),
        type_vocab_size=number(2, 5),
        max_length=8,
        layer_norm_eps=float(random.choice([1e-12, 1e-5])),
        lowercase=round_ != 2,
        strip_accents=bool(number(0, 1)),
        head_dropout=float(random.choice([0.0, 0.25])),
    )


def class_for(stored: StoredTask) -> Any:
    return getattr(transformers, TASK_CLASSES[stored.model.head.kind].name)


def load(folder: Path, stored: StoredTask) -> Any:
    """Return what the Auto class makes of ``folder``; every tensor of its class is in the file."""
    torch.set_num_threads(1)
    lines = loading_lines(str(folder), TASK_CLASSES[stored.model.head.kind].name)
    found: dict[str, Any] = {}
    exec("\n".join(lines), found)
    kind = type(found["model"])
    assert kind is class_for(stored)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def their_answers(model: Any, stored: StoredTask, batch: Batch, dtype: str) -> Sequence[Array]:
    """Return the logits for ``batch``, one row for each of ours."""

    def tensor(x: Array) -> Any:
        x = np.asarray(x).astype(np.int64)
        if stored.model.head.kind == "multiple-choice":
            x = x.reshape(-1, CHOICES, x.shape[1])
        return torch.tensor(x)

    with torch.no_grad():
        said = model.to(getattr(torch, dtype)).eval()(
            input_ids=tensor(batch.input_ids),
            token_type_ids=tensor(batch.token_type_ids),
            attention_mask=tensor(batch.attention_mask),
        )
    names: tuple[str, ...] = ("logits",)
    if stored.model.head.kind == "span-extraction":
        names = ("start_logits", "end_logits")
    return [getattr(said, name).numpy() for name in names]


def assert_same_answers(
    ours: Sequence[Array], theirs: Sequence[Array], stored: StoredTask, batch: Batch, dtype: str
) -> None:
    """Compare all rows, or all tokens; padding attends to nothing that matters."""
    rows = np.ones(len(batch.input_ids), np.bool_)
    if stored.model.head.kind in ("tagging", "span-extraction"):
        rows = batch.attention_mask.reshape(-1)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert our.size == their.size
        error = relative_error(*(x.reshape(rows.size, -1)[rows] for x in (our, their)))
        assert error <= BOUNDS[dtype]


@pytest.mark.parametrize("seed", range(MODELS))
def test_our_model_becomes_a_directory(seed: int, tmp_path: Path) -> None:
    stored = draw_model(seed)
    model = load(export(stored, tmp_path / "hf"), stored)
    config, labels = model.config, stored.labels
    if labels:
        assert config.id2label == dict(enumerate(labels))
        assert config.label2id == {label: i for i, label in enumerate(labels)}
    assert config.electra_ref == own_settings(stored.settings)
    assert config.problem_type == PROBLEMS.get(case_of(seed))
    assert config.classifier_dropout == stored.settings.head_dropout
    batch = draw_rows(stored.settings, seed)
    for dtype in BOUNDS:
        ours = our_answers(stored, batch, dtype)
        theirs = their_answers(model, stored, batch, dtype)
        assert_same_answers(ours, theirs, stored, batch, dtype)


def draw_theirs(stored: StoredTask, seed: int) -> Any:
    """Return a model of theirs with numbers of our drawing, none at its initial value."""
    size, label_sets = stored.model.encoder.size, "several" in case_of(seed)
    keys = {
        **configuration_of(stored.settings, size, "discriminator", 0),
        **head_keys(stored.model.head, stored.labels, label_sets=label_sets),
    }
    torch.manual_seed(seed)
    model = class_for(stored)(transformers.ElectraConfig(**keys))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.3 * torch.randn_like(tensor))
    return model.eval()


def save_theirs(model: Any, stored: StoredTask, folder: Path) -> None:
    """Write a directory as transformers does, its tokenizer too."""
    model.save_pretrained(folder)
    words = "".join(f"{t}\n" for t in vocabulary_of(stored.settings.vocab_size))
    (folder / "vocab.txt").write_text(words)
    lowercase = stored.settings.lowercase
    kind = transformers.AutoTokenizer.from_pretrained(folder, do_lower_case=lowercase)
    (folder / "vocab.txt").unlink()
    kind.save_pretrained(folder)


def test_our_own_key_survives_their_saving(tmp_path: Path) -> None:
    stored = draw_stored("tags", tag_scheme="iob1")
    model = load(export(stored, tmp_path / "hf"), stored)
    save_theirs(model, stored, tmp_path / "theirs")
    settings = open_fine_tuned(tmp_path / "theirs").settings
    assert own_settings(settings) == own_settings(stored.settings)


@pytest.mark.parametrize("seed", range(MODELS))
def test_a_directory_of_theirs_is_read(seed: int, tmp_path: Path) -> None:
    like = draw_model(seed)
    model = draw_theirs(like, seed)
    save_theirs(model, like, tmp_path / "theirs")
    assert is_fine_tuned(tmp_path / "theirs")
    stored = open_fine_tuned(tmp_path / "theirs")
    assert (stored.model, stored.labels) == (
        like.model._replace(encoder=stored.model.encoder), like.labels,
    )  # fmt: skip
    assert stored.settings.lowercase == like.settings.lowercase
    batch = draw_rows(like.settings, seed)
    for dtype in BOUNDS:
        ours = our_answers(stored, batch, dtype)
        theirs = their_answers(model, like, batch, dtype)
        assert_same_answers(ours, theirs, like, batch, dtype)
    export(stored, tmp_path / "back")
    before, after = read_weights(tmp_path / "theirs"), read_weights(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_outputs_without_names_of_their_own(tmp_path: Path) -> None:
    """Two such outputs are not in their config.json at all, one and three are."""
    like = draw_model(0)
    size = like.model.encoder.size
    for count in (2, 3):
        keys = configuration_of(like.settings, size, "discriminator", 0)
        config = transformers.ElectraConfig(**keys, num_labels=count)
        model = transformers.ElectraForSequenceClassification(config)
        save_theirs(model, like, tmp_path / str(count))
        stored = open_fine_tuned(tmp_path / str(count))
        assert stored.labels == tuple(f"LABEL_{i}" for i in range(count))
        assert stored.model.head.outputs == count
    specs = fine_tuning.parameter_specs(stored.model)
    assert specs[-1].shape == (3,)
