"""Fine-tuned models in the Hugging Face format: names, files, there and back, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_ref import convert, finetune, train
from electra_ref.backends import reference
from electra_ref.errors import UserError
from electra_ref.model.encoder import encoder_specs
from electra_ref.model.objectives import fine_tuning
from electra_ref.model.parameters import FlatParameters
from electra_ref.training.finetuning.encoder_source import copy_model, find_encoder
from electra_ref.training.finetuning.saved import find_fine_tuned, holds_fine_tuned
from electra_ref.training.finetuning.stored import StoredTask
from electra_ref.training.huggingface.exporting import export_model
from electra_ref.training.huggingface.exporting_fine_tuned import export_fine_tuned
from electra_ref.training.huggingface.fine_tuned import is_fine_tuned, open_fine_tuned
from electra_ref.training.huggingface.importing_fine_tuned import import_fine_tuned
from electra_ref.training.huggingface.names import fine_tuned_tensors
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import open_model, read_parameters
from electra_ref.training.stop_signals import StoppedError
from tests.huggingface_folders import STEP, change_config, read_weights, small_run, write_weights
from tests.huggingface_tasks import (
    CASES,
    draw_rows,
    draw_stored,
    export,
    our_answers,
    parameters_of,
    settings_of,
    write_run,
)

FILES = sorted([
    "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.txt",
])  # fmt: skip
SEQUENCE_HEAD = {
    "classifier.dense.weight": (8, 8),
    "classifier.dense.bias": (8,),
}
HEADS: dict[str, dict[str, tuple[int, ...]]] = {  # their names and shapes on an encoder 8 wide
    "two labels": {
        **SEQUENCE_HEAD,
        "classifier.out_proj.weight": (2, 8),
        "classifier.out_proj.bias": (2,),
    },
    "many labels": {
        **SEQUENCE_HEAD,
        "classifier.out_proj.weight": (7, 8),
        "classifier.out_proj.bias": (7,),
    },
    "several labels a text": {
        **SEQUENCE_HEAD,
        "classifier.out_proj.weight": (3, 8),
        "classifier.out_proj.bias": (3,),
    },
    "a number": {
        **SEQUENCE_HEAD,
        "classifier.out_proj.weight": (1, 8),
        "classifier.out_proj.bias": (1,),
    },
    "tags": {"classifier.weight": (5, 8), "classifier.bias": (5,)},
    "spans": {"qa_outputs.weight": (2, 8), "qa_outputs.bias": (2,)},
    "choices": {
        "sequence_summary.summary.weight": (8, 8),
        "sequence_summary.summary.bias": (8,),
        "classifier.weight": (1, 8),
        "classifier.bias": (1,),
    },
}
KEYS: dict[str, dict[str, Any]] = {  # what config.json says of each head
    "two labels": {
        "architectures": ["ElectraForSequenceClassification"],
        "problem_type": "single_label_classification",
        "id2label": {"0": "bad", "1": "good"},
        "label2id": {"bad": 0, "good": 1},
        "summary_last_dropout": 0.1,
    },
    "several labels a text": {
        "architectures": ["ElectraForSequenceClassification"],
        "problem_type": "multi_label_classification",
        "id2label": {"0": "é", "1": "b c", "2": "3"},
        "label2id": {"é": 0, "b c": 1, "3": 2},
    },
    "a number": {
        "architectures": ["ElectraForSequenceClassification"],
        "problem_type": "regression",
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    },
    "tags": {
        "architectures": ["ElectraForTokenClassification"],
        "id2label": {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"},
        "label2id": {"O": 0, "B-PER": 1, "I-PER": 2, "B-LOC": 3, "I-LOC": 4},
        "problem_type": None,
    },
    "spans": {
        "architectures": ["ElectraForQuestionAnswering"],
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "problem_type": None,
    },
    "choices": {
        "architectures": ["ElectraForMultipleChoice"],
        "id2label": None,
        "problem_type": None,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
        "summary_last_dropout": 0.25,
    },
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a directory for each case."""
    folder = tmp_path_factory.mktemp("exported")
    for name in CASES:
        export(draw_stored(name, head_dropout=0.25), folder / name)
    return folder


@pytest.fixture
def directory_of(exported: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Give a copy of a directory that a test may damage."""
    return lambda name: Path(shutil.copytree(exported / name, tmp_path / "model"))


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = read_weights(folder)
    edit(tensors)
    write_weights(folder, tensors)


def refusal(path: Path) -> str:
    """Return the one line with which ``path`` is refused."""
    with pytest.raises(UserError) as refused:
        parameters_of(open_fine_tuned(path))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def assert_same_bits(stored: StoredTask, other: StoredTask) -> None:
    one, two = parameters_of(stored), parameters_of(other)
    assert list(one.views) == list(two.views)
    np.testing.assert_array_equal(one.vector, two.vector)


# Names


@pytest.mark.parametrize("name", CASES)
def test_the_head_has_the_tensors_of_its_class(name: str) -> None:
    tensors = fine_tuned_tensors(draw_stored(name).model)
    found = {tensor.name: tensor.shape for tensor in tensors}
    assert len(found) == len(tensors)
    heads = {name: shape for name, shape in found.items() if not name.startswith("electra.")}
    assert heads == HEADS[name]


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_ours_is_in_one_place_of_theirs(name: str) -> None:
    model = draw_stored(name).model
    specs = fine_tuning.parameter_specs(model)
    count = sum(int(np.prod(spec.shape)) for spec in specs)
    parameters = FlatParameters(specs, np.arange(count, dtype=np.float64))
    views = [tensor.view(parameters) for tensor in fine_tuned_tensors(model)]
    numbers = np.concatenate([view.reshape(-1) for view in views])
    np.testing.assert_array_equal(np.sort(numbers), parameters.vector)


def test_matrices_of_heads_are_transposed(exported: Path) -> None:
    ours, theirs = parameters_of(draw_stored("two labels")), read_weights(exported / "two labels")
    matrix = ours["task.dense.weight"]
    np.testing.assert_array_equal(theirs["classifier.dense.weight"], matrix.T)
    matrix = ours["task.output.weight"]
    np.testing.assert_array_equal(theirs["classifier.out_proj.weight"], matrix.T)


# What is written


@pytest.mark.parametrize("name", KEYS)
def test_the_configuration_is_complete(name: str, exported: Path) -> None:
    config = json.loads((exported / name / "config.json").read_text())
    assert {key: config.get(key) for key in KEYS[name]} == KEYS[name]
    dropout = 0.1 if name == "spans" else 0.25  # its class has none
    assert (config["classifier_dropout"], config["hidden_dropout_prob"]) == (dropout, 0.1)
    assert (config["model_type"], config["hidden_size"], config["vocab_size"]) == ("electra", 8, 13)
    assert "num_labels" not in config


def test_all_files_are_there(exported: Path) -> None:
    for name in CASES:
        assert sorted(path.name for path in (exported / name).iterdir()) == FILES


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str, exported: Path, tmp_path: Path) -> None:
    before, after = draw_stored(name, head_dropout=0.25), open_fine_tuned(exported / name)
    assert (after.settings, after.labels, after.model) == (
        before.settings, before.labels, before.model,
    )  # fmt: skip
    assert (after.tokenizer.vocab, after.run, list(after.notes)) == (
        before.tokenizer.vocab, None, [],
    )  # fmt: skip
    assert_same_bits(before, after)
    export(after, tmp_path / "again")
    for file in FILES:
        if file != "README.md":
            again = (tmp_path / "again" / file).read_bytes()
            assert again == (exported / name / file).read_bytes()


def test_cased_text_comes_back(tmp_path: Path) -> None:
    stored = draw_stored("tags", lowercase=False, hidden_dropout=0.3, layer_norm_eps=1e-5)
    settings = open_fine_tuned(export(stored, tmp_path / "hf")).settings
    assert (settings.lowercase, settings.hidden_dropout, settings.layer_norm_eps) == (
        False, 0.3, 1e-5,
    )  # fmt: skip


def test_settings_of_the_task_come_back(tmp_path: Path) -> None:
    """Those that the format has no key for; where there are none, they have their defaults."""
    folder = export(draw_stored("tags", tag_scheme="iob1", unseen_share=0.5), tmp_path / "hf")
    settings: Any = open_fine_tuned(folder).settings
    assert (settings.tag_scheme, settings.unseen_share) == ("iob1", 0.5)
    change_config(folder, electra_ref=None)
    settings = open_fine_tuned(folder).settings
    assert (settings.tag_scheme, settings.unseen_share) == ("auto", 0.1)


@pytest.mark.parametrize(("own", "threshold"), [(None, 0.0), ({"null_threshold": -1.5}, -1.5)])
def test_the_threshold_of_questions_is_on_the_scale_of_their_head(
    own: dict[str, float] | None, threshold: float, directory_of: Callable[[str], Path]
) -> None:
    folder = directory_of("spans")
    change_config(folder, electra_ref=own)
    settings: Any = open_fine_tuned(folder).settings
    assert settings.null_threshold == threshold


def test_the_originals_head_for_tags_is_the_same_map(tmp_path: Path) -> None:
    stored = draw_stored("tags", head="original")
    after = open_fine_tuned(export(stored, tmp_path / "hf"))
    assert (stored.model.head.form, after.model.head.form) == ("original", "huggingface")
    batch = draw_rows(stored.settings, 0)
    one, two = (our_answers(each, batch, "float64") for each in (stored, after))
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("name", [name for name in CASES if name != "tags"])
def test_another_head_of_the_original_has_no_class(name: str, tmp_path: Path) -> None:
    stored = draw_stored(name, head="original")
    with pytest.raises(UserError, match=r"no class of transformers has; .* --head huggingface can"):
        export_fine_tuned(stored, Path("the model"), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        export_fine_tuned(draw_stored("tags"), Path("x"), tmp_path / "deep" / "hf", check)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    stored = draw_stored("tags")

    def read(parameters: FlatParameters) -> int:
        step = stored.read(parameters)
        parameters["task.output.bias"][2] = np.nan
        return step

    with pytest.raises(UserError, match=r"task\.output\.bias has NaN"):
        export(stored._replace(read=read), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


# The model card


def test_the_card_has_the_scores_of_the_step(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", draw_stored("tags", learning_rate=0.25))
    records: list[dict[str, Any]] = [
        {"step": 5, "split": "held_out", "f1": 0.5},
        {"step": STEP, "split": "held_out", "f1": 0.75, "precision": 0.625},
        {"step": 8, "split": "held_out", "f1": 0.125},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    RunDirectory.open(path).metrics.write_text(text)
    export_fine_tuned(find_fine_tuned(path), path, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    head = "---\nlibrary_name: transformers\npipeline_tag: token-classification\ntags:\n- electra\n"
    assert card.startswith(f"{head}---\n\n# ELECTRA for tagging\n")
    lines = ("| f1 | 0.75 |", "| precision | 0.625 |", "| task | tagging |", "| hidden_size | 8 |",
             "| learning_rate | 0.25 |",
             "from transformers import AutoModelForTokenClassification, AutoTokenizer")  # fmt: skip
    assert {*lines} <= {*card.splitlines()}
    for absent in ("0.125", "0.5 ", "B-PER", str(tmp_path)):
        assert absent not in card


def test_the_card_says_what_an_output_means(exported: Path, tmp_path: Path) -> None:
    assert (
        "each label whose output is above 0"
        in (exported / "several labels a text" / "README.md").read_text()
    )
    assert "The score is" not in (exported / "a number" / "README.md").read_text()
    stored = draw_stored("a number", lowest_score=1.0, highest_score=5.0)
    folder = export(stored, tmp_path / "hf")
    assert "The score is 1 + 4 x the output of the model." in (folder / "README.md").read_text()
    assert open_fine_tuned(folder).settings == stored.settings


@pytest.mark.parametrize("name", CASES)
def test_a_model_of_other_origin_has_no_training_on_its_card(name: str, exported: Path) -> None:
    card = (exported / name / "README.md").read_text()
    assert "a model of other origin" in card
    assert "## Training" not in card
    for label in CASES[name].labels:
        assert f"{label} " not in card.partition("##")[0]


# What is read


def test_what_holds_a_fine_tuned_model(exported: Path, tmp_path: Path) -> None:
    export_model(small_run(tmp_path / "run"), tmp_path / "hf", None)
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "run", tmp_path / "hf",
                 tmp_path / "hf" / "discriminator", tmp_path / "hf" / "generator"):  # fmt: skip
        assert not is_fine_tuned(path)
        assert not holds_fine_tuned(path)
    for name in CASES:
        assert is_fine_tuned(exported / name)
        assert holds_fine_tuned(exported / name)


@pytest.mark.parametrize("name", CASES)
def test_the_class_follows_from_the_tensors(name: str, directory_of: Callable[[str], Path]) -> None:
    """Where config.json names none, as old ones do."""
    folder = directory_of(name)
    before = open_fine_tuned(folder)
    change_config(folder, architectures=None)
    assert is_fine_tuned(folder)
    after = open_fine_tuned(folder)
    assert (after.model, after.labels) == (before.model, before.labels)


def test_the_problem_follows_from_the_number_of_outputs(
    directory_of: Callable[[str], Path],
) -> None:
    for name in ("two labels", "a number"):
        folder = directory_of(name)
        before = open_fine_tuned(folder).model
        change_config(folder, problem_type=None)
        assert open_fine_tuned(folder).model == before
        shutil.rmtree(folder)


@pytest.mark.parametrize("count", [None, 2])
def test_two_outputs_need_no_names(count: int | None, directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("two labels")
    change_config(folder, id2label=None, label2id=None, num_labels=count)
    assert open_fine_tuned(folder).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("by_label", [{"bad": 0}, {"bad": 1, "good": 0}, {"LABEL_0": 0}])
def test_the_reverse_table_is_not_needed(
    by_label: dict[str, int], directory_of: Callable[[str], Path]
) -> None:
    folder = directory_of("two labels")
    change_config(folder, label2id=by_label)
    stored = open_fine_tuned(folder)
    assert stored.labels == ("bad", "good")
    assert "has a label2id that is not the reverse of its id2label" in stored.notes[0]
    change_config(folder, label2id=None)
    assert open_fine_tuned(folder).notes == []


@pytest.mark.parametrize(
    ("name", "changes", "dropout"),
    [
        ("two labels", {"classifier_dropout": None, "hidden_dropout_prob": 0.5}, 0.5),
        ("tags", {"classifier_dropout": 0, "hidden_dropout_prob": 0.5}, 0.0),
        ("tags", {"classifier_dropout": None, "hidden_dropout_prob": None}, 0.1),
        ("choices", {"summary_last_dropout": 0.5}, 0.5),
        ("choices", {"summary_last_dropout": None, "hidden_dropout_prob": 0.5}, 0.1),
        ("spans", {"classifier_dropout": None, "hidden_dropout_prob": 0.5}, 0.1),
        ("spans", {"classifier_dropout": 0.5}, 0.1),  # its class has none
    ],
)
def test_the_dropout_of_a_head(
    name: str,
    changes: dict[str, Any],
    dropout: float,
    directory_of: Callable[[str], Path],
) -> None:
    folder = directory_of(name)
    change_config(folder, **changes)
    stored = open_fine_tuned(folder)
    assert (stored.settings.head_dropout, stored.model.head.dropout) == (dropout, dropout)


def test_what_a_directory_does_not_say_has_its_default(exported: Path) -> None:
    settings = open_fine_tuned(exported / "two labels").settings
    plain = settings_of("two labels", head_dropout=0.25)
    assert (settings.learning_rate, settings.seed) == (plain.learning_rate, plain.seed)


@pytest.mark.parametrize("length", [None, 512, 10**30])
def test_rows_are_as_long_as_the_model_reads(
    length: int | None, directory_of: Callable[[str], Path]
) -> None:
    folder = directory_of("two labels")
    path = folder / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), "model_max_length": length}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    assert open_fine_tuned(folder).settings.max_length == 10


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_alone_is_read(name: str, exported: Path) -> None:
    """As fine-tuning for another task does."""
    stored = open_fine_tuned(exported / name)
    whole = parameters_of(stored)
    specs = [*encoder_specs(stored.model.encoder)]
    alone, step = read_parameters(stored, specs, "float32", exported)
    assert step == 0
    for spec in specs:
        np.testing.assert_array_equal(alone[spec.name], whole[spec.name])


def test_fine_tuning_begins_with_the_encoder(exported: Path) -> None:
    source = find_encoder(exported / "tags")
    other = draw_stored("two labels", seed=1)
    parameters = parameters_of(other)
    before = parameters_of(other)
    taken = copy_model(source, parameters, other.model, other.labels, reference).what
    assert taken.startswith("the encoder and not the head, which is for another task")
    theirs = parameters_of(draw_stored("tags"))
    for spec in parameters.specs:
        expected = before if spec.name.startswith("task.") else theirs
        np.testing.assert_array_equal(parameters[spec.name], expected[spec.name])


@pytest.mark.parametrize("name", CASES)
def test_fine_tuning_for_the_same_task_begins_with_the_head_too(name: str, exported: Path) -> None:
    source, same = find_encoder(exported / name), draw_stored(name, seed=1)
    parameters = parameters_of(same)
    taken = copy_model(source, parameters, same.model, same.labels, reference).what
    assert taken == f"the encoder and the head of {exported / name}, step 0"
    np.testing.assert_array_equal(parameters.vector, parameters_of(draw_stored(name)).vector)


def test_a_head_is_taken_whatever_settings_do_not_change_its_parameters(tmp_path: Path) -> None:
    """The original's head for spans with another beam, and the one of Hugging Face."""
    write_run(tmp_path / "run", draw_stored("spans", head="original"))
    source = find_encoder(tmp_path / "run")
    for changes, is_taken in (
        ({"head": "original", "beam_size": 3, "answerable_weight": 1.0}, True),
        ({"head": "huggingface"}, False),
    ):
        other = draw_stored("spans", seed=1, **changes)
        taken = copy_model(source, parameters_of(other), other.model, (), reference).what
        assert ("the encoder and the head" in taken) == is_taken


def test_a_head_of_other_labels_is_not_taken(exported: Path) -> None:
    source, other = find_encoder(exported / "two labels"), draw_stored("two labels", seed=1)
    parameters = parameters_of(other)
    taken = copy_model(source, parameters, other.model, other.labels[::-1], reference).what
    assert "not the head" in taken
    head = "task.output.weight"
    np.testing.assert_array_equal(parameters[head], parameters_of(other)[head])


# What is refused


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tags", {"model_type": "bert"}, "a model of type 'bert'; only 'electra' is read"),
        ("tags", {"hidden_act": "relu"}, "has hidden_act = 'relu', and only 'gelu' is"),
        ("choices", {"summary_type": "last"}, "has summary_type = 'last', and only 'first' is"),
        ("choices", {"summary_use_proj": False}, "has summary_use_proj = False, and only True"),
        ("choices", {"summary_activation": "tanh"}, "summary_activation = 'tanh', and only 'gelu'"),
        ("choices", {"summary_proj_to_labels": True}, "has summary_proj_to_labels = True"),
        ("tags", {"architectures": ["ElectraForMultipleChoice"]}, "it lacks sequence_summary."),
        ("choices", {"architectures": ["ElectraForTokenClassification"]}, "the unknown sequence_"),
        ("tags", {"architectures": ["ElectraForPreTraining"]}, "names the class ElectraForPre"),
        ("tags", {"architectures": ["MyElectra"]}, "those of ElectraForTokenClassification: if"),
        ("two labels", {"problem_type": "ranking"}, "problem_type = 'ranking', which is none of"),
        ("two labels", {"problem_type": "regression"}, "= 'regression' with 2 labels; computed"),
        ("a number", {"problem_type": "single_label_classification"}, "with 1 label; computed"),
        ("two labels", {"num_labels": 3}, "has num_labels = 3 and 2 labels in id2label; versions"),
        ("two labels", {"id2label": {"0": "a", "2": "b"}}, "does not number its labels from 0"),
        ("two labels", {"id2label": ["a", "b"]}, "does not number its labels from 0"),
        ("two labels", {"id2label": {}}, "does not number its labels from 0"),
        ("two labels", {"id2label": {"0": "a", "1": "a"}}, "labels are not all different words"),
        ("two labels", {"id2label": {"0": "a", "1": 0.5}}, "labels are not all different words"),
        ("tags", {"id2label": {"0": "a", "1": "b"}}, "classifier.weight (5, 8) and not (2, 8)"),
        ("tags", {"id2label": None, "num_labels": "5"}, "num_labels = '5', which should be of"),
        ("tags", {"id2label": None, "num_labels": 10**9}, "has num_labels = 1000000000, more than"),
        ("spans", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "has 3 labels, and ElectraForQue"),
        ("tags", {"classifier_dropout": 1.5}, "has classifier_dropout = 1.5, which is not in [0,"),
        ("tags", {"classifier_dropout": "0"}, "has classifier_dropout = '0', which should be"),
        ("tags", {"electra_ref": {"tag_schemes": "iob1"}}, "unknown 'tag_schemes' in electra_ref"),
        ("tags", {"electra_ref": {"learning_rate": 1.0}}, "has the unknown 'learning_rate' in"),
        (
            "tags",
            {"electra_ref": {"tag_scheme": 3}},
            "electra_ref: tag_scheme = 3 should be a word",
        ),
        ("tags", {"electra_ref": {"tag_scheme": "x"}}, "tag_scheme = 'x' is none of"),
        ("tags", {"electra_ref": []}, "has electra_ref = [], which should be an object"),
        ("tags", {"hidden_size": 9}, "do not fit"),
        ("tags", {"num_hidden_layers": 3}, "it lacks electra.encoder.layer.2."),
        ("tags", {"num_hidden_layers": 2**31 - 1}, "num_hidden_layers = 2147483647"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, directory_of: Callable[[str], Path]
) -> None:
    folder = directory_of(name)
    if "architectures" in changes:
        change_config(folder, electra_ref=None)  # it is the settings of another task
    change_config(folder, **changes)
    if changes == {"hidden_size": 9}:
        message = "2 attention heads do not divide its width 9"
    found = refusal(folder)
    assert message in found
    assert str(folder) in found


def test_a_head_of_other_shapes_is_refused(directory_of: Callable[[str], Path]) -> None:
    """As that of BertForSequenceClassification: one linear map."""
    folder = directory_of("two labels")

    def flatten(tensors: dict[str, Any]) -> None:
        for kind in ("weight", "bias"):
            tensors[f"classifier.{kind}"] = tensors.pop(f"classifier.out_proj.{kind}")
            del tensors[f"classifier.dense.{kind}"]

    edit_weights(folder, flatten)
    message = refusal(folder)
    assert "it lacks classifier.dense.weight, classifier.dense.bias, classifier.out_proj" in message
    assert "it has the unknown classifier.weight" in message


def test_one_more_tensor_is_refused(directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("tags")
    more = {"crf.transitions": np.ones((5, 5), np.float32)}
    edit_weights(folder, lambda tensors: tensors.update(more))
    assert "it has the unknown crf.transitions" in refusal(folder)


def test_no_head_at_all_is_refused(directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("tags")
    change_config(folder, architectures=["ElectraModel"])
    edit_weights(
        folder, lambda tensors: [tensors.pop(f"classifier.{k}") for k in ("weight", "bias")]
    )
    assert not is_fine_tuned(folder)
    assert "has no head for a task; read are ElectraForSequenceClassification" in refusal(folder)


def test_a_pickle_alone_is_not_read(directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("tags")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert is_fine_tuned(folder)
    message = refusal(folder)
    assert "has its weights in pytorch_model.bin only, a pickle" in message
    assert "ElectraForTokenClassification as Model" in message


def test_numbers_that_are_not_finite_are_not_used(directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("tags")

    def edit(tensors: dict[str, Any]) -> None:
        tensors["classifier.weight"][1, 2] = np.inf

    edit_weights(folder, edit)
    assert "task.output.weight has NaN or infinity" in refusal(folder)


def test_it_neither_detects_nor_guesses_words(exported: Path) -> None:
    with pytest.raises(
        UserError, match="fine-tuned, for ElectraForTokenClassification: it neither"
    ):
        open_model(exported / "tags", "reference")


# The command


def run_command(*arguments: object) -> int:
    return convert.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_converted_both_ways(
    name: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = draw_stored(name, head_dropout=0.25)
    run = write_run(tmp_path / "run", stored)
    assert run_command("--from", run, "--to", tmp_path / "hf") == 0
    lines = capsys.readouterr().out.splitlines()
    architecture = KEYS.get(name, KEYS["two labels"])["architectures"][0]
    assert lines[0].startswith(f"{tmp_path / 'hf'}: {architecture}, ")
    assert lines[0].endswith("parameters, step 7")
    assert lines[2].startswith(f"from transformers import AutoModel{architecture[7:]}, Auto")
    for file in FILES:
        if file != "README.md":
            found = (tmp_path / "hf" / file).read_bytes()
            assert found == (exported / name / file).read_bytes()

    assert run_command("--from", tmp_path / "hf", "--to", tmp_path / "back") == 0
    lines = capsys.readouterr().out.splitlines()
    kind = stored.settings.task
    assert lines[1] == f"python -m electra_ref.predict --model {tmp_path / 'back'} --task {kind}"
    back = find_fine_tuned(tmp_path / "back")
    assert (back.settings, back.labels, back.model) == (
        stored.settings, stored.labels, stored.model,
    )  # fmt: skip
    assert_same_bits(stored, back)
    assert run_command("--from", tmp_path / "back", "--to", tmp_path / "again") == 0
    assert "a model of other origin" in (tmp_path / "again" / "README.md").read_text()


def test_an_imported_run_cannot_be_resumed(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_fine_tuned(exported / "tags", tmp_path / "run")
    assert finetune.main(["--resume", "--output-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"to train on from its weights: --model {tmp_path / 'run'}\n")
    assert train.main(["--resume", "--output-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "is one of fine-tuning; to go on with it: python -m electra_ref.finetune" in error


def test_numbers_that_are_rounded_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("float64", "float32"):
        stored = draw_stored("tags", precision=precision)
        run = write_run(tmp_path / precision, stored)
        assert run_command("--from", run, "--to", tmp_path / f"hf {precision}") == 0
        said = "rounded from float64 to float32" in capsys.readouterr().err
        assert said == (precision == "float64")


def test_double_precision_is_kept_by_a_run(directory_of: Callable[[str], Path]) -> None:
    folder = directory_of("tags")

    def widen(tensors: dict[str, Any]) -> None:
        tensors.update({name: x.astype(np.float64) / 3 for name, x in tensors.items()})

    edit_weights(folder, widen)
    import_fine_tuned(folder, folder.parent / "run")
    before, after = open_fine_tuned(folder), find_fine_tuned(folder.parent / "run")
    one, two = (parameters_of(each, "float64") for each in (before, after))
    np.testing.assert_array_equal(one.vector, two.vector)
    assert np.any(one.vector != one.vector.astype(np.float32))


def test_a_fine_tuned_model_has_no_parts(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "run"
    part = "discriminator"
    assert run_command("--from", exported / "tags", "--to", to, "--part", part) == 2
    assert "is fine-tuned, so it is one network: omit --part" in capsys.readouterr().err
    assert not to.exists()


def test_the_originals_head_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", draw_stored("two labels", head="original"))
    assert run_command("--from", run, "--to", tmp_path / "hf") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"the model in {run} has the head 'original' for classification" in error
    assert not (tmp_path / "hf").exists()
