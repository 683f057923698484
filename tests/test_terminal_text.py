"""Text of others on a terminal: nothing raw that it would obey, and widths in its columns."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest

from electra_ref.errors import UserError
from electra_ref.running import run_command
from electra_ref.terminal_text import cell, columns_of, encodable, visible
from electra_ref.training.progress import Progress, show

OBEYED = "\33[2J\33]0;title\7 \r \b \x9b31m \n \u202e \u2066 \u200b \u2028 \ufeff \udcff \U000e0041"


def is_raw(text: str) -> bool:
    return any(unicodedata.category(character)[0] == "C" for character in text)


def test_every_character_without_a_shape_is_escaped() -> None:
    """None that is left can be obeyed, and none with a shape is changed."""
    for code_point in (*range(0x20000), *range(0xE0000, 0xE0200), sys.maxunicode):
        character = chr(code_point)
        shown = visible(f"a{character}b")
        has_shape = unicodedata.category(character) in ("Mn", "Mc", "Me", "Zs") or (
            unicodedata.category(character)[0] in "LNPS"
        )
        assert shown == (f"a{character}b" if has_shape else ascii(f"a{character}b")[1:-1])


@pytest.mark.parametrize("text", ["", "plain", "naïve 中文 שלמה ﷽ e\u0301 🦀 \u00a0", r"C:\new"])
def test_text_with_a_shape_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("abc", 3),
        ("中文", 4),
        ("한글", 4),
        ("ｱ", 1),
        ("e\u0301", 1),
        ("🦀", 2),
        ("שלמה", 4),
    ],
)
def test_widths_are_those_of_a_terminal(text: str, columns: int) -> None:
    assert columns_of(text) == columns_of(cell(text)) == columns


def test_a_cell_stays_apart_from_its_neighbours() -> None:
    assert cell("\u0301") == "\u25cc\u0301"  # a mark alone would change the space before it
    assert columns_of(cell("\u0301")) == 1
    assert cell("##\u0301") == "##\u0301"
    for text in ("שלמה", "مرحب", "##ים", "a٣"):
        assert cell(text) == f"\u2068{text}\u2069"
    assert cell("\u202eabc") == "\\u202eabc"
    assert cell("\33[31m") == "\\x1b[31m"
    assert columns_of(cell("\33[31m")) == 8


def test_an_error_line_shows_what_a_name_hides(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise UserError(f"cannot read {OBEYED}")

    assert run_command("train", command) == 2
    line = capsys.readouterr().err
    assert line.startswith("train: error: cannot read \\x1b[2J\\x1b]0;title\\x07 \\r \\x08 ")
    assert line.endswith("\\U000e0041\n")
    assert not is_raw(line[:-1])


def test_a_line_of_progress_shows_what_a_name_hides() -> None:
    stream = io.StringIO()
    Progress(stream).say(OBEYED)
    assert stream.getvalue() == visible(OBEYED) + "\n"
    assert not is_raw(stream.getvalue()[:-1])


def test_results_appear_whatever_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    show("é 中 \udcff\n")
    assert raw.getvalue() == b"\xe9 \\u4e2d \\udcff\n"
    assert encodable("中", io.StringIO()) == "中"
