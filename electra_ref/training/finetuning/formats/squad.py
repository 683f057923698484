"""SQuAD 1.1 and 2.0: questions on a context, each with its answers or without any.

    {"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
        "answers": [{"text": ..., "answer_start": ...}], "is_impossible": false}]}]}]}
    {"data": [{"id": ..., "context": ..., "question": ..., "answers": ...}]}
    {"id": ..., "context": ..., "question": ..., "answers": {"text": [...], "answer_start": [...]}}

The first is the data set's own, as one JSON value in any number of lines; the second is Hugging
Face's; the third is one object a line. Where ``is_impossible`` is missing, a question without
answers is impossible. A question without an id has its number.

The first answer is what is learned; all of them count in the scores. Its place is where the context
has the words of the answer, in any case and with any white space between them, among the words that
the place in the file touches; so a place that is off by a few characters is put right. An answer
that is not there cannot be learned.
Source: rajpurkar.github.io/SQuAD-explorer; google-research/electra finetune/qa/qa_tasks.py
(``_add_examples``), which skips such questions in training, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from electra_ref.errors import UserError
from electra_ref.text.decoding import replace_surrogates
from electra_ref.text.lines import End, read_lines
from electra_ref.training.finetuning.formats.json_values import (
    keys_of,
    list_of,
    object_of,
    text_of,
)
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally
from electra_ref.training.finetuning.task import Use
from electra_ref.training.prediction.records import kind_of
from electra_ref.training.prediction.source import LONGEST_LINE

EXPECTED = 'SQuAD JSON ({"data": [...]}), or one question a line as a JSON object'
NOT_FOUND = "questions skipped: the answer is not in the context where the file says"
NO_ANSWER = "questions skipped: no answer is given, and is_impossible is not true"


class Question(NamedTuple):
    """A question, and what is known of its answer."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]  # all that are right
    span: tuple[int, int] | None  # [start, end) of the first one, in characters of the context
    impossible: bool  # there is no answer
    is_labelled: bool  # whether the file says what the answer is


def read_squad(file: InputFile, use: Use, tally: Tally) -> Iterator[Question]:
    """Yield the questions of ``file``.

    In training, those whose answer cannot be found are skipped and counted. Raises UserError, with
    the place, for what is no such file, for an id that is there twice, and where there is nothing.
    """
    places: dict[str, str] = {}
    for context, entry, place in _questions(file):
        question = _question(context, entry, place, str(len(places) + 1), use)
        if question.id in places:
            raise UserError(
                f"{place}: the id {question.id!r} is already that of {places[question.id]}"
            )
        places[question.id] = place
        if use == "train" and not question.impossible and question.span is None:
            tally.add(NOT_FOUND if question.answers else NO_ANSWER, f"{place}, id {question.id}")
            continue
        yield question
    if not places:
        raise UserError(f"{file.name} has no questions: expected {EXPECTED}")


def find_answer(context: str, answer: str, start: int) -> tuple[int, int] | None:
    """Return [start, end) of ``answer`` in ``context``, near the character ``start``, or None."""
    words = answer.split()
    if start < 0:
        return None
    if words and context.startswith(answer, start) and answer == answer.strip():
        return start, start + len(answer)
    first, last = start, start + len(answer)
    if not words or not first < last <= len(context):
        return None
    while first > 0 and not context[first - 1].isspace():
        first -= 1
    while last < len(context) and not context[last].isspace():
        last += 1
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    spans = [match.span() for match in pattern.finditer(context, first, last)]
    return min(spans, key=lambda span: abs(span[0] - start), default=None)


def _questions(file: InputFile) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the context, the question's object and its place."""
    for number, (entry, place) in enumerate(_entries(file), start=1):
        if "paragraphs" not in entry:
            yield text_of(entry, "context", place), entry, place
            continue
        for paragraph_number, paragraph in enumerate(list_of(entry, "paragraphs", place), start=1):
            where = f"{file.name}, article {number}, paragraph {paragraph_number}"
            context = text_of(object_of(paragraph, where), "context", where)
            for question_number, question in enumerate(list_of(paragraph, "qas", where), start=1):
                exactly = f"{where}, question {question_number}"
                yield context, object_of(question, exactly), exactly


def _entries(file: InputFile) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield articles or questions, with their places."""
    head = _head(file.blocks)
    first = head.lstrip("\ufeff \t\r\n").partition("\n")[0]
    if not first:
        raise UserError(f"{file.name} is empty: expected {EXPECTED}")
    value = _value_of(first)
    if isinstance(value, dict) and "data" not in value:
        yield from _lines(file, head)
        return
    text = head + "".join(file.blocks)
    if value is None or text.strip() != first.strip():
        value = _parse(text, file)
    if isinstance(value, dict):
        value = list_of(value, "data", file.name)
    if not isinstance(value, list):
        raise UserError(f"{file.name}: expected {EXPECTED}, not {kind_of(value)}")
    for number, entry in enumerate(value, start=1):
        place = f"{file.name}, entry {number} of the data"
        yield object_of(entry, place), place


def _head(blocks: Iterator[str]) -> str:
    """Return the beginning of the text, its first line that is not blank included."""
    parts = []
    for block in blocks:
        parts.append(block)
        if "\n" in block and "\n" in "".join(parts).lstrip():
            break
    return "".join(parts)


def _lines(file: InputFile, head: str) -> Iterator[tuple[dict[str, Any], str]]:
    lines = read_lines(chain([head], file.blocks), LONGEST_LINE, sentence_ends="")
    for number, (line, end) in enumerate(lines, start=1):
        if end is End.CUT:
            raise file.error(number, f"longer than {LONGEST_LINE:,} characters")
        if line.strip():
            yield object_of(_parse(line, file, number), file.place(number)), file.place(number)


def _value_of(text: str) -> Any:
    """Return the JSON value of ``text``, None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(text: str, file: InputFile, line: int = 1) -> Any:
    """Return the JSON value of ``text``, which begins in ``line``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{error.msg}, column {error.colno}, where the line has {_around(error)!r}"
        message = f"expected {EXPECTED}; this is no JSON ({found})"
        raise file.error(line + error.lineno - 1, message) from error
    except (ValueError, RecursionError) as error:
        raise file.error(line, f"expected {EXPECTED}; this is no JSON ({error})") from error


def _around(error: json.JSONDecodeError) -> str:
    return error.doc[error.pos : error.pos + 20].partition("\n")[0]


def _question(context: str, entry: dict[str, Any], place: str, number: str, use: Use) -> Question:
    question = text_of(entry, "question", place)
    given = entry.get("is_impossible")
    is_labelled = "answers" in entry or given is True
    if not is_labelled and use != "predict":
        raise UserError(f"{place} has no 'answers'; {keys_of(entry)}: only predict does without")
    answers = _answers(entry, place) if "answers" in entry else []
    if given not in (None, True, False):
        raise UserError(f"{place}: 'is_impossible' should be true or false, not {kind_of(given)}")
    impossible = is_labelled and (not answers if given is None else given)
    span = find_answer(context, *answers[0]) if answers and not impossible else None
    texts = tuple(text for text, _ in answers)
    return Question(
        _id_of(entry, number, place), question, context, texts, span, impossible, is_labelled
    )


def _id_of(entry: dict[str, Any], number: str, place: str) -> str:
    value = entry.get("id", number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{place}: 'id' should be a string, not {kind_of(value)}")
    return replace_surrogates(str(value))[0]


def _answers(entry: dict[str, Any], place: str) -> list[tuple[str, int]]:
    """Return the text and the first character of each answer."""
    answers = entry["answers"]
    if isinstance(answers, dict):  # Hugging Face's: two lists
        texts, starts = (list_of(answers, key, place) for key in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise UserError(
                f"{place}: {len(texts)} texts of answers, but {len(starts)} times 'answer_start'"
            )
        answers = [
            {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
        ]
    pairs = []
    for answer in list_of(entry | {"answers": answers}, "answers", place):
        text = text_of(object_of(answer, f"{place}, answer"), "text", f"{place}, answer")
        start = answer.get("answer_start")
        if isinstance(start, bool) or not isinstance(start, int):
            raise UserError(f"{place}: 'answer_start' should be a number, not {kind_of(start)}")
        pairs.append((text, start))
    return pairs
