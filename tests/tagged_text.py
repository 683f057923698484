"""Files of tagged text in memory, and what a format makes of them."""

from __future__ import annotations

from electra_ref.training.finetuning.formats.sentences import Columns, Sentence
from electra_ref.training.finetuning.formats.tagged_files import AUTO, read_sentences
from electra_ref.training.finetuning.input_file import InputFile
from electra_ref.training.finetuning.tally import Tally

GUESSED = Columns(1, -1, "", "")


def file_of(text: str, name: str = "file") -> InputFile:
    """Return a file with ``text``; the ending of ``name`` is its ending."""
    dot = name.rfind(".")
    ending = name[dot:] if dot >= 0 else ""
    return InputFile(name, ending, iter(text.splitlines()), iter([text]))


def read(
    text: str,
    name: str = "file",
    data_format: str = AUTO,
    columns: Columns = GUESSED,
    *,
    tagged: bool = True,
    tally: Tally | None = None,
) -> list[Sentence]:
    """Return the sentences of ``text``."""
    tally = Tally() if tally is None else tally
    return list(
        read_sentences(file_of(text, name), data_format, columns, tagged=tagged, tally=tally)
    )


def words_and_tags(sentences: list[Sentence]) -> list[tuple[str, str]]:
    """Return the words and the tags of each sentence, with spaces between them."""
    return [(" ".join(one.words), " ".join(one.tags or ())) for one in sentences]
