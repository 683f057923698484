"""The files of GLUE, with the quirks of each; the first lines are made up, their form is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.glue import (
    GLUE_TASKS,
    glue_recipe,
    glue_records,
    submission_line,
)
from electra_ref.training.finetuning.formats.text_record import TextRecord
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use
from tests.finetuning_files import read, write

NLI = ("index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
       "sentence1_parse\tsentence2_parse\tsentence1\tsentence2")  # fmt: skip
MNLI = f"{NLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
ROW = '0\t1\t1c\tfiction\t( a )\t( b )\t(R a)\t(R b)\tA man.\tA "cat.\t'
TRAIN = {
    "cola": ("gj04\t1\t\tA \"man.\ngj04\t0\t*\tMan a.\n", ("A \"man.", None, "1", None)),
    "sst2": ("sentence\tlabel\na \"film \t0\n", ('a "film ', None, "0", None)),
    "mrpc": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\t\"He said.\tHe \"said\".\n",
        ('"He said.', 'He "said".', "1", None),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        "3\tnews\tf\t2012\t1\tnone\tnone\tA.\tB.\t3.800\n",
        ("A.", "B.", "3.800", "3"),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tA?\t\"B\"?\t1\n",
        ("A?", '"B"?', "1", "5"),
    ),
    "mnli": (
        f"{MNLI}{ROW}neutral\tneutral\tx\tx\tx\tneutral\n", ("A man.", 'A "cat.', "neutral", "0")
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n9\tWho?\tHe.\tnot_entailment\n",
        ("Who?", "He.", "not_entailment", "9"),
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
        ("A.", "B.", "entailment", "0"),
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t0\n", ("A.", "B.", "0", "0")),
}  # fmt: skip
TEST = {
    "cola": ("index\tsentence\n0\tA man.\n", ("A man.", None, None, "0")),
    "sst2": ("index\tsentence\n4\ta film\n", ("a film", None, None, "4")),
    "mrpc": (
        "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tA.\tB.\n",
        ("A.", "B.", None, "0"),
    ),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
        "3\tnews\tf\t2012\t1\tnone\tnone\tA.\tB.\n",
        ("A.", "B.", None, "3"),
    ),
    "qqp": ("id\tquestion1\tquestion2\n0\tA?\tB?\n", ("A?", "B?", None, "0")),
    "mnli": (f"{NLI}\n{ROW.strip()}\n", ("A man.", 'A "cat.', None, "0")),
    "qnli": ("index\tquestion\tsentence\n9\tWho?\tHe.\n", ("Who?", "He.", None, "9")),
    "rte": ("index\tsentence1\tsentence2\n0\tA.\tB.\n", ("A.", "B.", None, "0")),
    "wnli": ("index\tsentence1\tsentence2\n0\tA.\tB.\n", ("A.", "B.", None, "0")),
}


def records(
    folder: Path, task: str, text: str, use: Use = "train", name: str = "f.tsv"
) -> tuple[list[TextRecord], Tally]:
    path = write(folder, name, text)
    return read(path, lambda file, tally: glue_records(file, task, use, tally))


def error(folder: Path, task: str, text: str, use: Use = "train") -> str:
    with pytest.raises(UserError) as caught:
        records(folder, task, text, use)
    return str(caught.value).removeprefix(str(folder))


@pytest.mark.parametrize("use", ["train", "dev"])
@pytest.mark.parametrize("task", GLUE_TASKS)
def test_files_with_labels(tmp_path: Path, task: str, use: Use) -> None:
    text, expected = TRAIN[task]
    first = records(tmp_path, task, text, use)[0][0]
    assert first[:4] == expected
    line = 1 if task == "cola" else 2
    assert first.place == f"{tmp_path / 'f.tsv'}, line {line}"


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_test_files(tmp_path: Path, task: str) -> None:
    text, expected = TEST[task]
    (record,), _ = records(tmp_path, task, text, "predict", "f.tsv.gz")
    assert record[:4] == expected


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_labels_are_not_read_where_answers_are_wanted(tmp_path: Path, task: str) -> None:
    text, (first, second, _, identifier) = TRAIN[task]
    record = records(tmp_path, task, text, "predict")[0][0]
    assert record[:4] == (first, second, None, identifier)


@pytest.mark.parametrize("task", [task for task in GLUE_TASKS if task != "cola"])
def test_a_test_file_teaches_nothing(tmp_path: Path, task: str) -> None:
    message = error(tmp_path, task, TEST[task][0])
    assert message.startswith(f"/f.tsv, line 1: a file of {GLUE_TASKS[task].name} begins with")
    assert f"{GLUE_TASKS[task].label!r} is not there" in message


@pytest.mark.parametrize("task", [task for task in GLUE_TASKS if task != "cola"])
def test_a_header_is_missing(tmp_path: Path, task: str) -> None:
    text = TRAIN[task][0].partition("\n")[2]
    assert " begins with a header that has " in error(tmp_path, task, text)


def test_diagnostic_set(tmp_path: Path) -> None:
    (record,), _ = records(tmp_path, "mnli", "index\tsentence1\tsentence2\n7\tA.\tB.\n", "predict")
    assert record[:4] == ("A.", "B.", None, "7")


def test_labels_and_their_order() -> None:
    order = {name: task.labels for name, task in GLUE_TASKS.items()}
    nli = ("entailment", "not_entailment")
    assert order == {
        **dict.fromkeys(("cola", "sst2", "mrpc", "qqp", "wnli"), ("0", "1")),
        "stsb": (),
        "mnli": ("contradiction", "entailment", "neutral"),
        "qnli": nli,
        "rte": nli,
    }


def test_broken_rows_of_qqp_are_counted(tmp_path: Path) -> None:
    header, row, _ = TRAIN["qqp"][0].split("\n")
    text = f"{header}\n{row}\n6\t1\t2\tA?\nrest\t1\n{row}\n"
    found, tally = records(tmp_path, "qqp", text)
    assert [record.place[-1] for record in found] == ["2", "5"]
    assert list(tally.lines()) == [
        "2 rows of QQP with too few or too many columns left out "
        f"(the first: {tmp_path / 'f.tsv'}, line 3)"
    ]


def test_broken_rows_of_other_tasks_are_errors(tmp_path: Path) -> None:
    text = TRAIN["rte"][0] + "1\tA.\tB.\n"
    assert error(tmp_path, "rte", text) == "/f.tsv, line 3: 3 columns instead of 4"
    text = TRAIN["rte"][0] + "1\n"
    assert error(tmp_path, "rte", text) == "/f.tsv, line 3: 1 column instead of 4"


def test_rows_of_mnli_without_a_gold_label_are_counted(tmp_path: Path) -> None:
    text = TRAIN["mnli"][0] + f"{ROW}x\tx\tx\tx\tx\t-\n"
    found, tally = records(tmp_path, "mnli", text)
    assert len(found) == 1
    assert tally.counts() == {"rows of MNLI without a gold label left out": 1}


def test_other_tasks_have_no_row_without_a_label(tmp_path: Path) -> None:
    text = TRAIN["rte"][0] + "1\tA.\tB.\t-\n"
    assert error(tmp_path, "rte", text) == (
        "/f.tsv, line 3: the label '-' is none of entailment, not_entailment"
    )


def test_a_header_where_cola_has_none(tmp_path: Path) -> None:
    text = "source\tlabel\tmark\tsentence\n" + TRAIN["cola"][0]
    message = error(tmp_path, "cola", text)
    assert message.startswith("/f.tsv, line 1: the label 'label' is none of 0, 1; ")
    assert message.endswith("have no header: delete this line if it is one")
    message = error(tmp_path, "cola", "sentence\tlabel\nA man.\t1\n")
    assert message.startswith("/f.tsv, line 1: 2 columns instead of 4; ")
    assert "have no header" in message
    message = error(tmp_path, "cola", TRAIN["cola"][0] + "gj04\tx\t\tA.\n")
    assert message == "/f.tsv, line 3: the label 'x' is none of 0, 1"


def test_an_empty_file(tmp_path: Path) -> None:
    assert error(tmp_path, "rte", "") == "/f.tsv is empty"


def test_recipes_are_the_original_s() -> None:
    usual = {"epochs": 3.0, "batch_size": 32, "max_length": 128}
    recipes = {name: glue_recipe(name) for name in GLUE_TASKS}
    assert recipes == {
        **dict.fromkeys(("cola", "sst2", "qqp", "mnli", "qnli", "wnli"), usual),
        "rte": {**usual, "epochs": 10.0},
        "mrpc": {**usual, "swap_pairs": True},
        "stsb": {**usual, "epochs": 10.0, "swap_pairs": True},
    }


def test_a_submission_has_the_index_of_the_file_or_counts() -> None:
    def record(identifier: object) -> TextRecord:
        return TextRecord("a", None, None, identifier, "f, line 1")

    assert submission_line(1, record("7"), "x") == "7\tx"
    assert submission_line(1, record(None), "x") == "1\tx"
    for name in ("a\tb", "a\n", {"a": 1}, ["a"]):
        with pytest.raises(UserError, match="cannot stand in a table"):
            submission_line(1, record(name), "x")
