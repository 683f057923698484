"""RACE: an article, and questions about it with four options each.

    {"article": ..., "questions": [...], "options": [[...], ...], "answers": ["A", ...], "id": ...}

An answer is a letter. A question may have a blank, written _ : an option is what stands there. Each
question becomes a record of its own; its id is that of the article and its number, from 0.
Source: Lai et al. 2017, arXiv:1704.04683; huggingface/transformers
examples/multiple-choice/utils_multiple_choice.py (``RaceProcessor``).
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase

from electra_ref.training.finetuning.formats.choice_record import ChoiceRecord, checked_choices
from electra_ref.training.finetuning.formats.json_lines import JsonObject, text_of, texts_of
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.task import Use

ARTICLE = "article"  # the key that tells RACE from other formats


def race_records(file: InputFile, found: JsonObject, use: Use) -> Iterator[ChoiceRecord]:
    """Yield the questions of an article. Raises UserError with its line for what does not fit."""
    line = found.line
    article = text_of(file, found, ARTICLE)
    questions = texts_of(file, found, "questions")
    options = found.values.get("options")
    if not isinstance(options, list) or len(options) != len(questions):
        raise file.error(line, f"{len(questions)} questions, but not as many lists of 'options'")
    answers = None if use == "predict" else texts_of(file, found, "answers")
    if answers is not None and len(answers) != len(questions):
        raise file.error(line, f"{len(questions)} questions, but {len(answers)} 'answers'")
    name = found.values.get("id")
    for number, question in enumerate(questions):
        own = JsonObject(line, {"options": options[number]})
        choices = checked_choices(file, line, texts_of(file, own, "options"))
        label = None if answers is None else _number(file, line, answers[number], len(choices))
        identifier = None if name is None else f"{name}-{number}"
        yield ChoiceRecord(article, question, choices, label, identifier, file.place(line))


def _number(file: InputFile, line: int, letter: str, choices: int) -> int:
    letters = ascii_uppercase[:choices]
    if len(letter) != 1 or letter not in letters:
        raise file.error(line, f"the answer {letter!r} is none of {', '.join(letters)}")
    return letters.index(letter)
