"""SQuAD files: its own layout, Hugging Face's, one question a line; what is refused or skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from electra_ref.errors import UserError
from electra_ref.training.finetuning.formats import squad
from electra_ref.training.finetuning.formats.squad import Question, find_answer, read_squad
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use

CONTEXT = "Ada  Lovelace was born in London."
BORN = {"id": "b", "question": "Where?", "answers": [{"text": "London", "answer_start": 26}]}
NONE = {"id": "n", "question": "When?", "answers": [], "is_impossible": True}


def file_of(text: str, block: int = 7) -> InputFile:
    """Return ``text`` as an open file that is read in small blocks."""
    blocks: Iterator[str] = iter([text[i : i + block] for i in range(0, len(text), block)])
    return InputFile("f.json", ".json", iter(()), blocks)


def read(text: str, use: Use = "train", tally: Tally | None = None) -> list[Question]:
    return list(read_squad(file_of(text), use, tally or Tally()))


def squad_of(*questions: Any, context: str = CONTEXT) -> dict[str, Any]:
    paragraph = {"context": context, "qas": list(questions)}
    return {"version": "v2.0", "data": [{"title": "Ada", "paragraphs": [paragraph]}]}


def line_of(entry: dict[str, Any], **changes: Any) -> str:
    return json.dumps({"context": CONTEXT, **entry, **changes})


EXPECTED = [
    Question("b", "Where?", CONTEXT, ("London",), (26, 32), False, True),
    Question("n", "When?", CONTEXT, (), None, True, True),
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_squad_in_one_line_or_many(indent: int | None, end: str) -> None:
    assert read("\n" + json.dumps(squad_of(BORN, NONE), indent=indent) + end) == EXPECTED


def test_questions_without_articles() -> None:
    """As transformers' examples have them, and as a list."""
    entries = [{"context": CONTEXT, **BORN}, {"context": CONTEXT, **NONE}]
    assert read(json.dumps({"version": 2, "data": entries}, indent=2)) == EXPECTED
    assert read(json.dumps(entries)) == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_question_a_line(end: str) -> None:
    lists = {"text": ["London"], "answer_start": [26]}
    nothing: dict[str, Any] = {"text": [], "answer_start": []}
    first, second = line_of(BORN, answers=lists), line_of(NONE, answers=nothing)
    assert read(end + first + end + end + second) == EXPECTED
    assert read(first + end + second + end) == EXPECTED


def test_only_ends_of_lines_end_a_line() -> None:
    entry = {"context": CONTEXT, **BORN, "question": "a\u2028b\x85c_d"}
    text = json.dumps(entry, ensure_ascii=False)
    (question, _) = read(text + "\n" + line_of(NONE))
    assert question.question == entry["question"]


def test_one_line_alone() -> None:
    assert read(line_of(BORN)) == EXPECTED[:1]


def test_no_answers_are_impossible_unless_the_file_says_otherwise() -> None:
    silent = {"id": "s", "question": "Who?", "answers": []}
    said = {**silent, "is_impossible": False}
    assert [q.impossible for q in read(json.dumps(squad_of(silent)))] == [True]
    tally = Tally()
    with_one = json.dumps(squad_of(BORN, said))
    assert read(with_one, tally=tally) == EXPECTED[:1]
    assert list(tally.lines()) == [
        "1 question skipped: no answer is given, and is_impossible is not true "
        "(the first: f.json, article 1, paragraph 1, question 2, id s)"
    ]
    (_, kept) = read(with_one, "dev")
    assert (kept.impossible, kept.span, kept.answers, kept.is_labelled) == (False, None, (), True)


def test_plausible_answers_are_none() -> None:
    plausible = {**NONE, "plausible_answers": [{"text": "London", "answer_start": 26}]}
    assert read(json.dumps(squad_of(plausible))) == EXPECTED[1:]


def test_all_answers_are_kept_and_the_first_is_learned() -> None:
    answers = [{"text": "Lovelace", "answer_start": 5}, {"text": "London.", "answer_start": 26}]
    (question,) = read(json.dumps(squad_of({**BORN, "answers": answers})), "dev")
    assert (question.answers, question.span) == (("Lovelace", "London."), (5, 13))


def test_an_answer_that_is_not_there_is_skipped_in_training_and_kept_to_score() -> None:
    wrong = {**BORN, "answers": [{"text": "Paris", "answer_start": 26}]}
    tally = Tally()
    assert read(json.dumps(squad_of(wrong, NONE)), tally=tally) == EXPECTED[1:]
    assert list(tally.lines()) == [
        "1 question skipped: the answer is not in the context where the file says "
        "(the first: f.json, article 1, paragraph 1, question 1, id b)"
    ]
    (question,) = read(json.dumps(squad_of(wrong)), "dev")
    assert (question.answers, question.span, question.impossible) == (("Paris",), None, False)


@pytest.mark.parametrize(
    ("answer", "start", "span"),
    [
        ("London", 26, (26, 32)),
        ("London.", 26, (26, 33)),
        ("Lond", 26, (26, 30)),
        ("london", 26, (26, 32)),  # case
        ("Ada Lovelace", 0, (0, 13)),  # white space inside
        (" London ", 25, (26, 32)),  # and around
        (" in ", 22, (23, 25)),
        ("London", 27, (26, 32)),  # in the word that the place touches
        ("ondon", 26, (27, 32)),
        ("London", 0, None),  # in the context, but elsewhere
        ("Paris", 26, None),
        ("London. It", 26, None),  # beyond the end
        ("London", -1, None),
        (CONTEXT[-5:], -5, None),  # Python counts from the end
        ("", 3, None),
        (" ", 4, None),
        ("a+", 0, None),  # no pattern
    ],
)
def test_where_an_answer_is(answer: str, start: int, span: tuple[int, int] | None) -> None:
    assert find_answer(CONTEXT, answer, start) == span


def test_of_two_places_the_nearer_one() -> None:
    assert find_answer("x aBab x", "ab", 4) == (4, 6)
    assert find_answer("x aBab x", "ab", 2) == (2, 4)
    assert find_answer("x ABAB x", "ab", 4) == (4, 6)


def test_predict_needs_no_answers() -> None:
    open_question = {"question": "Where?"}
    for use in ("train", "dev"):
        with pytest.raises(UserError, match=r"f.json, line 1 has no 'answers'; its keys are"):
            read(line_of(open_question), use)
    (question, other) = read(line_of(open_question) + "\n" + line_of(open_question), "predict")
    assert (question.id, other.id) == ("1", "2")
    assert (question.impossible, question.is_labelled) == (False, False)


def test_an_id_may_be_a_number_and_is_there_once() -> None:
    assert read(line_of(BORN, id=7))[0].id == "7"
    text = line_of(BORN, id=7) + "\n" + line_of(BORN, id="7")
    with pytest.raises(UserError, match=r"f.json, line 2: the id '7' is already that of .*line 1$"):
        read(text)


def test_single_surrogates_are_replaced() -> None:
    (question,) = read(line_of(BORN, question="a\ud800b"))
    assert question.question == "a\ufffdb"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.json is empty: expected SQuAD JSON"),
        (" \n\n", "f.json is empty"),
        ('{"data": []}', "f.json has no questions"),
        (json.dumps(squad_of()), "f.json has no questions"),
        (
            "question\tanswer\nWho?\tI\n",
            "f.json, line 1: expected SQuAD JSON .* 'question.tanswer'",
        ),
        ('{"data": [\n{"a": 1},\n{"b" 2}]}', "f.json, line 3: .* no JSON .*column 6"),
        (line_of(BORN) + "\n{'id': 1}", "f.json, line 2: .* no JSON"),
        (line_of(BORN) + "\n[1]", "f.json, line 2: expected a JSON object, not an array"),
        ('{"data": []}\n{"data": []}', "f.json, line 2: .* no JSON .*Extra data"),
        ("x" * 500, "f.json, line 1: .* no JSON"),
        ("12", "f.json: expected SQuAD JSON .*not a number"),
        ('{"data": 1}', "f.json: 'data' should be an array, not a number"),
        ('{"data": [1]}', "f.json, entry 1 of the data: expected a JSON object, not a number"),
        ('{"data": [{"title": "x"}]}', "entry 1 of the data has no 'context'; .* 'title'"),
        (json.dumps(squad_of(3)), "article 1, paragraph 1, question 1: expected a JSON object"),
        (json.dumps(squad_of({"id": "1"})), "question 1 has no 'question'; its keys are 'id'"),
        (line_of(BORN, context=None), "line 1: 'context' should be a string, not null"),
        (line_of(BORN, is_impossible="no"), "'is_impossible' should be true or false, not a str"),
        (line_of(BORN, answers="London"), "'answers' should be an array, not a string"),
        (line_of(BORN, answers=["London"]), "answer: expected a JSON object, not a string"),
        (line_of(BORN, answers=[{"text": "London"}]), "'answer_start' should be a number, not nu"),
        (line_of(BORN, answers={"text": ["a"], "answer_start": []}), "1 texts of answers, but 0"),
        (line_of(BORN, id=[1]), "'id' should be a string, not an array"),
        ("[" * 100_000, "line 1: .* no JSON"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_lines_are_read_as_they_come() -> None:
    def blocks() -> Iterator[str]:
        yield line_of(BORN) + "\n"
        yield line_of(NONE) + "\n"
        raise AssertionError("read too far")

    file = InputFile("f.jsonl", ".jsonl", iter(()), blocks())
    assert next(read_squad(file, "predict", Tally())).id == "b"


def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squad, "LONGEST_LINE", 300)
    with pytest.raises(UserError, match=r"f.json, line 2: longer than 300 characters"):
        read(line_of(BORN) + "\n" + line_of(NONE, question="x" * 400))
