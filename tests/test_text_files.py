"""Texts with labels: which column is what, JSON, plain lines, and what a file is."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats.columns import (
    IDS,
    LABELS,
    PAIRS,
    SCORES,
    TEXTS,
    Columns,
    Names,
    NoColumnError,
    find_columns,
)
from electra_ref.training.finetuning.formats.text_record import TextRecord, with_swapped_pairs
from electra_ref.training.finetuning.formats.texts import (
    READ_AS_TEXT,
    SURPRISES,
    TextFilesConfig,
    text_records,
    with_texts_per_example,
)
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use
from tests.finetuning_files import read, write


def columns_of(*there: str, needs_label: bool = True, **chosen: str) -> Columns:
    return find_columns(there, Names(**chosen), label_names=LABELS, needs_label=needs_label)


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_usual_names_of_pairs(pair: tuple[str, str]) -> None:
    names = [name.upper() for name in pair]
    assert columns_of("label", *names, "other") == (*names, "label", None)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("label", LABELS)
def test_usual_names_of_texts_and_labels(text: str, label: str) -> None:
    assert columns_of("x", label.title(), text.title()) == (text.title(), None, label.title(), None)


@pytest.mark.parametrize("identifier", IDS)
def test_an_identifier_is_no_text(identifier: str) -> None:
    assert columns_of(identifier, "joke", "label") == ("joke", None, "label", identifier)


def test_the_one_column_that_remains_is_the_text() -> None:
    assert columns_of("joke", "label") == ("joke", None, "label", None)
    assert columns_of("joke", needs_label=False) == ("joke", None, None, None)
    with pytest.raises(NoColumnError, match="usual name of a text"):
        columns_of("joke", "source", "label")


def test_the_first_usual_name_counts() -> None:
    assert columns_of("class", "text", "sentence", "label")[:3] == ("sentence", None, "label")


HEADERS = {  # as they are published
    "SICK": ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "label"),
    "QNLI": ("index", "question", "sentence", "label"),
    "BoolQ": ("question", "passage", "idx", "label"),
    "QQP": ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
    "MRPC": ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
    "XNLI": ("genre", "premise", "hypothesis", "label"),
    "SNIPS": ("intent", "tokens", "slots"),
    "others": ("guid", "text_a", "text_b", "category"),
    "ours": ("id", "text", "text_pair", "label"),
    "MTEB": ("text1", "text2", "label"),
}


def test_headers_of_published_data() -> None:
    found = {name: tuple(columns_of(*there)) for name, there in HEADERS.items()}
    assert found == {
        "SICK": ("sentence_A", "sentence_B", "label", None),
        "QNLI": ("question", "sentence", "label", "index"),
        "BoolQ": ("question", "passage", "label", "idx"),
        "QQP": ("question1", "question2", "is_duplicate", "id"),
        "MRPC": ("#1 String", "#2 String", "Quality", None),
        "XNLI": ("premise", "hypothesis", "label", None),
        "SNIPS": ("tokens", None, "intent", None),
        "others": ("text_a", "text_b", "category", "guid"),
        "ours": ("text", "text_pair", "label", "id"),
        "MTEB": ("text1", "text2", "label", None),
    }


def test_of_names_that_differ_by_case_the_first_counts() -> None:
    assert columns_of("Text", "text", "LABEL", "label") == ("Text", None, "LABEL", None)


def test_chosen_columns() -> None:
    there = ("id", "sentence1", "sentence2", "a", "b", "label", "x")
    assert columns_of(*there, label="x") == ("sentence1", "sentence2", "x", "id")
    assert columns_of(*there, text="a") == ("a", None, "label", "id")  # no guess of a pair
    assert columns_of(*there, text="a", pair="b", label="x") == ("a", "b", "x", "id")
    assert columns_of(*there, text="id")[3] is None


def test_a_chosen_column_is_missing_or_there_twice() -> None:
    with pytest.raises(NoColumnError) as caught:
        columns_of("text", "label", label="lable")
    assert str(caught.value) == (
        "no column 'lable' (label_column); those there are 'text', 'label'"
    )
    with pytest.raises(NoColumnError, match=r"two columns 'a' \(text_column\)"):
        columns_of("a", "a", "label", text="a")
    with pytest.raises(NoColumnError, match=r"no column 'b' \(text_pair_column\)"):
        columns_of("a", "label", pair="b")


def test_a_label_is_needed_to_learn() -> None:
    assert columns_of("text", needs_label=False) == ("text", None, None, None)
    with pytest.raises(NoColumnError, match=r"usual name of a label .* --set label_column=NAME"):
        columns_of("text", "stars")


def test_columns_are_said() -> None:
    assert str(columns_of("a", "b", "label", text="a", pair="b")) == (
        "text = 'a', second text = 'b', label = 'label'"
    )
    assert str(columns_of("text", needs_label=False)) == "text = 'text'"


def records(
    folder: Path, name: str, text: str, use: Use = "train", glue: str = "", **settings: Any
) -> tuple[list[TextRecord], Tally]:
    def read_records(file: Any, tally: Tally) -> Any:
        return text_records(file, TextFilesConfig(**settings), use, tally, glue=glue)

    return read(write(folder, name, text), read_records)


def error(folder: Path, name: str, text: str, use: Use = "train", **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        records(folder, name, text, use, **settings)
    return str(caught.value).removeprefix(str(folder))


def short(found: list[TextRecord]) -> list[tuple[Any, ...]]:
    return [record[:4] for record in found]


def test_a_table(tmp_path: Path) -> None:
    text = 'id,premise,hypothesis,label\n7,"A, b",B,yes\n8,,C,no\n'
    found, tally = records(tmp_path, "a.csv.gz", text)
    assert short(found) == [("A, b", "B", "yes", "7"), ("", "C", "no", "8")]
    place = tmp_path / "a.csv.gz"
    assert [record.place for record in found] == [f"{place}, line {n}" for n in (2, 3)]
    assert list(tally.lines()) == [
        "columns between commas, quoted; text = 'premise', second text = 'hypothesis', "
        "label = 'label'"
    ]


def test_settings_choose_columns_and_quoting(tmp_path: Path) -> None:
    text = 'text\tmy label\tother\n"a\tb\tc"\n'
    settings: dict[str, Any] = {
        "text_column": "other",
        "label_column": "my label",
        "quoting": "none",
    }
    found, _ = records(tmp_path, "a.tsv", text, **settings)
    assert short(found) == [('c"', None, "b", None)]


def test_a_label_is_not_read_where_answers_are_wanted(tmp_path: Path) -> None:
    found, _ = records(tmp_path, "a.tsv", "text\tlabel\na\tb\n", "predict", label_column="x")
    assert short(found) == [("a", None, None, None)]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("headline\tarticle\nyes\ta\n", "headline"),  # a usual name of a text
        ("y\tfoo\nyes\ta\n", "y"),
        ('{"y": "yes", "foo": "a"}\n', "y"),
    ],
)
def test_answers_and_training_read_the_same_text(tmp_path: Path, text: str, label: str) -> None:
    name = "a.jsonl" if text.startswith("{") else "a.tsv"
    found, _ = records(tmp_path, name, text, label_column=label)
    assert short(found) == [("a", None, "yes", None)]
    found, _ = records(tmp_path, name, text, "predict", label_column=label)
    assert short(found) == [("a", None, None, None)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.txt", "a"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    text = (
        '{"id": 3, "sentence": "a \\ud800 b", "label": 1}\n\n'
        '{"sentence": "c", "label": true, "more": null}\n{"sentence": "d", "label": ["x", 2]}\n'
        '{"sentence": "e", "label": null}\n'
    )
    found, tally = records(tmp_path, name, text)
    assert short(found) == [
        ("a \ufffd b", None, "1", 3),
        ("c", None, "true", None),
        ("d", None, ("x", "2"), None),
        ("e", None, None, None),
    ]
    assert [record.place[-1] for record in found] == ["1", "3", "4", "5"]
    assert list(tally.lines()) == [
        "text = 'sentence', label = 'label'",
        f"1 blank line left out (the first: {tmp_path / name}, line 2)",
    ]
    with pytest.raises(UserError, match="line 6: no 'label'; its keys are 'sentence', 'lable'"):
        records(tmp_path, name, text + '{"sentence": "f", "lable": 1}')


def test_a_second_text_of_json_may_be_missing(tmp_path: Path) -> None:
    text = '{"text": "a", "text_pair": "b"}\n{"text": "c", "text_pair": null}\n{"text": "d"}\n'
    found, _ = records(tmp_path, "a.jsonl", text, "predict")
    assert [record[:2] for record in found] == [("a", "b"), ("c", None), ("d", None)]


@pytest.mark.parametrize("first", ['{"question": "a"}', '{"question": "a", "sentence": null}'])
def test_what_only_later_objects_have_is_read(tmp_path: Path, first: str) -> None:
    text = (
        f'{first} {{"question": "b", "sentence": "c", "id": 7}} {{"question": "f"}}'
        '{"question": "d", "Passage": "e", "sentence": null, "idx": 8}'
    )
    found, tally = records(tmp_path, "a.json", text, "predict")
    expected = [("a", None), ("b", "c", None, 7), ("f", None), ("d", "e", None, 8)]
    assert short(found) == [(*one, None, None)[:4] for one in expected]
    notes = ["text = 'question'", "second text = 'sentence'", "second text = 'Passage'"]
    lines = " ".join(tally.lines())
    assert [lines.count(note) > 0 for note in notes] == [True] * 3
    with_chosen, _ = records(tmp_path, "a.json", text, "predict", text_column="question")
    assert [record.pair for record in with_chosen] == [None] * 4


OBJECTS = {
    "lines": '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
    "an array": '[{"text": "a", "label": "x"},\n {"text": "b", "label": "y"}]',
    "objects of many lines": '{\n"text": "a",\n"label": "x"\n} {"text": "b",\n"label": "y"}\n',
}


@pytest.mark.parametrize("text", OBJECTS.values(), ids=OBJECTS)
def test_files_of_json(tmp_path: Path, text: str) -> None:
    found, _ = records(tmp_path, "a.json", text)
    assert short(found) == [("a", None, "x", None), ("b", None, "y", None)]
    second = "4" if text.startswith("{\n") else "2"
    assert [record.place[-1] for record in found] == ["1", second]


@pytest.mark.parametrize(("ending", "delimiter"), [(".tsv", "\t"), (".csv", ","), (".txt", ";")])
def test_a_table_without_a_header_says_how_to_give_it_one(
    ending: str, delimiter: str, tmp_path: Path
) -> None:
    """The first example is a header otherwise, whichever of its columns is chosen."""
    rows = "".join(f"good {i}{delimiter}x\nbad {i}{delimiter}y\n" for i in range(2))
    between = {"\t": "tabs", ",": "commas", ";": "semicolons"}[delimiter]
    advice = (
        f"if the file has no header, put a line of names before line 1, with {between} between "
        "them, such as sentence and label"
    )
    name = f"a{ending}"
    message = error(tmp_path, name, rows)
    assert message.startswith(f"/{name}, line 1: no column has a usual name of a label")
    assert message.endswith(
        f"those there are 'good 0', 'x'; choose one: --set label_column=NAME; this line is the "
        f"header: {advice}"
    )
    message = error(tmp_path, name, rows, label_column="y")
    assert message == (
        f"/{name}, line 1: no column 'y' (label_column); those there are 'good 0', 'x'; this line "
        f"is the header: {advice}"
    )
    found, tally = records(tmp_path, name, f"{rows}fine{delimiter}x\n", label_column="x")
    assert "is also the label of 2 examples; " in list(tally.lines())[1]
    found, tally = records(tmp_path, name, rows, label_column="x")
    assert len(found) == 3
    assert list(tally.lines())[1:] == [
        f"warning: {tmp_path}/{name}, line 1, was read as the header and not as an example, yet "
        f"'x', the name of a column there, is also the label of 1 example; {advice}"
    ]
    for label in ("", "label"):
        rows_below = f"sentence{delimiter}label\n{rows}"
        found, tally = records(tmp_path, name, rows_below, label_column=label)
        assert len(found) == 4
        assert len(list(tally.lines())) == 1


@pytest.mark.parametrize("header", ["text\tx", "text\tother"])
def test_a_table_that_is_predicted_has_no_labels_to_compare_with_its_header(
    header: str, tmp_path: Path
) -> None:
    """The settings of the trained model still name the column of the labels."""
    text = f"{header}\ngood\tx\nbad\ty\n"
    found, tally = records(tmp_path, "a.tsv", text, "predict", label_column="x")
    assert [record.label for record in found] == [None, None]
    assert len(list(tally.lines())) == 1


def test_a_label_that_a_guessed_column_is_called_is_an_ordinary_one(tmp_path: Path) -> None:
    found, tally = records(tmp_path, "a.tsv", "text\ttopic\nr\ttopic\ns\tother\n")
    assert len(found) == 2
    assert len(list(tally.lines())) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text" "b"}\n', "line 2: expected a JSON object (Expecting"),
        ('{"text": "a", "label": 1}\n["b"]\n', "line 2: expected a JSON object, not an array"),
        ('{"text": "a", "label": NaN}\n', "line 1: expected a JSON object (NaN is not JSON)"),
        ('{"text": "a", "label": 1}\n{"label": 1}\n', "line 2: no 'text'; the keys are label"),
        ('{"text": 5, "label": 1}\n', "line 1: expected a string 'text', not a number"),
        ('{"text": "a", "label": {}}\n', "line 1: 'label' is an object, and no label"),
        ('{"text": "a", "label": [null]}\n', "line 1: 'label' is null, and no label"),
        ('{"text": "a", "label": 1, "idx": 1e999}\n', "line 1: the answer cannot repeat its 'idx'"),
        ('{"text": "a"}\n', "line 1: no column has a usual name of a label"),
    ],
)
def test_wrong_json(tmp_path: Path, text: str, message: str) -> None:
    assert error(tmp_path, "a.jsonl", text).startswith(f"/a.jsonl, {message}")


def test_wrong_json_in_a_file_of_objects(tmp_path: Path) -> None:
    message = error(tmp_path, "a.json", '\n{"text": "a", "label": -Infinity}')
    assert message == "/a.json, line 2: expected a JSON object (-Infinity is not JSON)"
    text = '[{"text": "a", "label": "x"},\n\n {"text": }]'
    assert error(tmp_path, "a.json", text).startswith(
        "/a.json, line 3: expected a JSON object (Expecting value, column 11)"
    )


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_lines_of_text_are_answered(tmp_path: Path, name: str) -> None:
    found, _ = records(tmp_path, name, 'First, a "line".\n\nA\ttab\n', "predict")
    assert short(found) == [(text, None, None, None) for text in ('First, a "line".', "", "A\ttab")]
    assert [record.place[-1] for record in found] == ["1", "2", "3"]
    found, tally = records(tmp_path, name, '\n{"text": "a"}\n', "predict")
    assert short(found)[1] == ('{"text": "a"}', None, None, None)
    assert tally.counts() == {READ_AS_TEXT: 1}


@pytest.mark.parametrize("use", ["dev", "predict"])
def test_texts_are_counted_where_the_model_learned_from_another_number(
    tmp_path: Path, use: Use
) -> None:
    text = "sentence1\tsentence2\tlabel\na\tb\tx\nc\td\ty\n"
    pairs, _ = records(tmp_path, "a.tsv", text, use)
    single, _ = records(tmp_path, "a.tsv", "text\tlabel\na\tx\n", use)
    settings = TextFilesConfig()
    assert with_texts_per_example(pairs, settings).texts_per_example == "two"
    assert with_texts_per_example(single, settings).texts_per_example == "one"
    assert with_texts_per_example([*pairs, *single], settings) == settings
    chosen = TextFilesConfig(texts_per_example="one")
    assert with_texts_per_example(pairs, chosen) == chosen
    _, tally = records(tmp_path, "a.tsv", text, use, texts_per_example="one")
    assert tally.counts() == {SURPRISES["one"]: 2}
    _, tally = records(tmp_path, "a.tsv", "text\tlabel\na\tx\n", use, texts_per_example="two")
    assert tally.counts() == {SURPRISES["two"]: 1}
    for number in ("auto", "two"):
        _, tally = records(tmp_path, "a.tsv", text, use, texts_per_example=number)
        assert tally.counts() == {}


def test_no_column_has_two_uses() -> None:
    for key, other in combinations(("text_column", "text_pair_column", "label_column"), 2):
        same: dict[str, Any] = {key: "a", other: "a"}
        with pytest.raises(UserError, match=f"{key} and {other} are both 'a': name two columns"):
            TextFilesConfig(**same)
        TextFilesConfig(**{**same, other: "b"})


@pytest.mark.parametrize("header", ["text\tlabel", "label\tSentence1", '"sentence","x"', "my\tx"])
def test_a_table_of_any_name_is_known_by_its_header(tmp_path: Path, header: str) -> None:
    delimiter = "," if "," in header else "\t"
    text = f"{header}\na{delimiter}b\n"
    found, _ = records(tmp_path, "a", text, "predict", text_column="my" if "my" in header else "")
    assert len(found) == 1


@pytest.mark.parametrize("first", [*TEXTS, "Content", '"Review"', "my"])
def test_one_word_in_the_first_line_is_a_text_unless_the_name_tells(
    tmp_path: Path, first: str
) -> None:
    for name, lines in (("a", [first, "b"]), ("a.tsv", ["b"]), ("a.csv", ["b"])):
        found, _ = records(
            tmp_path, name, f"{first}\nb\n", "predict", text_column="my" * (first == "my")
        )
        assert [record.text for record in found] == lines


def test_the_format_that_is_chosen(tmp_path: Path) -> None:
    text = '{"text": "a"}\n'
    as_lines, _ = records(tmp_path, "a.jsonl", text, "predict", file_format="text")
    assert as_lines[0].text == '{"text": "a"}'
    table, _ = records(tmp_path, "a.txt", "joke\nb\n", "predict", file_format="delimited")
    assert short(table) == [("b", None, None, None)]


def test_glue_by_name_unless_it_is_json(tmp_path: Path) -> None:
    found, _ = records(tmp_path, "a.tsv", "s\t1\t\tA.\n", glue="cola")
    assert short(found) == [("A.", None, "1", None)]
    found, _ = records(tmp_path, "a.txt", '{"text": "A."}\n', "predict", glue="cola")
    assert short(found) == [("A.", None, None, None)]
    found, _ = records(tmp_path, "a.txt", "A.\n", "predict", glue="cola", file_format="text")
    assert short(found) == [("A.", None, None, None)]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("use", ["train", "dev"])
def test_an_empty_file(tmp_path: Path, name: str, use: Use) -> None:
    assert error(tmp_path, name, "", use) == f"/{name} is empty"
    assert records(tmp_path, name, "", "predict")[0] == []


def test_a_file_without_rows(tmp_path: Path) -> None:
    assert error(tmp_path, "a.tsv", "text\tlabel\n") == "/a.tsv has no rows to train on"
    assert error(tmp_path, "a.json", "[]", "dev") == "/a.json has no rows to score"
    assert records(tmp_path, "a.tsv", "text\tlabel\n", "predict")[0] == []


def test_swapped_pairs() -> None:
    pair = TextRecord("a", "b", "1", "7", "f, line 2")
    assert with_swapped_pairs([pair]) == [pair, TextRecord("b", "a", "1", "7", "f, line 2")]
    with pytest.raises(UserError, match="f, line 2: one text, but swap_pairs = true needs two"):
        with_swapped_pairs([pair._replace(pair=None)])


def test_scores_have_names_of_their_own() -> None:
    found = find_columns(("text", "label", "score"), Names(), label_names=SCORES, needs_label=True)
    assert found.label == "score"
