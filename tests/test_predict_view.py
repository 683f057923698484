"""The view of a terminal: marks below tokens, colours, wrapping; and a person who types."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_ref import predict
from electra_ref.terminal_text import columns_of, visible
from electra_ref.text.wordpiece import WordPiece
from electra_ref.training.prediction.examples import Example, example_of
from electra_ref.training.prediction.records import Record, Text
from electra_ref.training.prediction.table import task_of
from electra_ref.training.prediction.view import (
    GREEN,
    NARROWEST,
    RED,
    Cell,
    Style,
    dimmed,
    shown_words,
    wrapped,
)
from tests.predicting import run_predict, train_small
from tests.test_wordpiece import VOCABULARY

TOKENIZER = WordPiece(VOCABULARY)
WIDE, NARROW = Style(80, colour=False), Style(NARROWEST, colour=False)
COLOUR = re.compile(r"\x1b\[\d+m")


def example(*texts: Text, masks: bool = False) -> Example:
    return example_of(Record(texts), TOKENIZER, recognizes_mask=masks)


def rtd_view(found: Example, replaced: set[str], style: Style = WIDE) -> list[str]:
    logits = [2.0 if token in replaced else -3.0 for token in found.tokens]
    return list(task_of("rtd").view(found, {"logits": logits}, style))


def test_replaced_tokens_are_marked_in_the_text() -> None:
    found = example("A playing, é")
    assert rtd_view(found, {"##ing", "e", "[CLS]"}) == [
        "A playing, é",
        "      ^^^  ^",
        "  replaced: ing 0.88, é 0.88",
    ]
    assert rtd_view(found, {"[SEP]"}) == [
        "A playing, é",
        "  none above 0.5; the highest: A 0.05",
    ]
    assert rtd_view(example(""), set()) == []


def test_colour_is_added_to_the_marks() -> None:
    lines = rtd_view(example("a playing"), {"##ing"}, Style(80, colour=True))
    assert lines[0] == f"a play{RED}ing\33[0m"
    assert lines[1] == f"      {RED}^^^\33[0m"
    assert [COLOUR.sub("", line) for line in lines] == rtd_view(example("a playing"), {"##ing"})


def test_the_texts_of_a_pair_begin_lines() -> None:
    assert rtd_view(example("a b", "c"), {"c"})[:3] == ["a b", "c", "^"]


def test_many_replaced_tokens_are_counted() -> None:
    lines = rtd_view(example("a b c a b c a"), {"a", "b", "c"})
    assert lines[-1].endswith(" and 2 more")
    assert shown_words([("a", 0.5)] * 3, 2) == "a 0.50, a 0.50 and 1 more"


def test_what_the_text_hides_is_shown() -> None:
    """Escape sequences are dropped by the tokenizer or shown as escapes, never sent on."""
    lines = rtd_view(example("a\33[31mb\u202ec"), {"a"})
    assert lines[0].isprintable()
    assert rtd_view(example("pl\33ay [\33]"), {"play"})[:2] == ["pl\\x1bay []", "^^^^^^^^"]


def test_a_terminal_without_a_character_shows_an_escape(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = Style(80, colour=False, encoding="ascii")
    monkeypatch.setattr(predict, "style_of", lambda _: style)
    (tmp_path / "a.txt").write_text("a é\n", encoding="utf-8")
    paths = ["--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out")]
    assert run_predict(model, "rtd", *paths) == 0
    assert (tmp_path / "out").read_bytes().startswith(b"a \\xe9\n")


def mlm_view(text: str, *best: str, style: Style = WIDE) -> list[str]:
    found = example(text, masks=True)
    masks = [{"fillings": [{"token": token, "probability": 0.25}] * 2} for token in best]
    return list(task_of("mlm").view(found, {"masks": masks}, style))


def test_the_best_fillings_stand_in_the_text() -> None:
    assert mlm_view("a [MASK] b [MASK].", "play", "##ing") == [
        "a play bing.",
        "  ^^^^  ^^^",
        "  1: play 0.25, play 0.25",
        "  2: ##ing 0.25, ##ing 0.25",
    ]
    assert mlm_view("a") == ["a", "  no [MASK] to fill"]
    coloured = mlm_view("[MASK]", "play", style=Style(80, colour=True))
    assert coloured[:2] == [f"{GREEN}play\33[0m", f"{GREEN}^^^^\33[0m"]


CELLS = st.lists(
    st.builds(
        Cell,
        st.text("ab力e\u0301\33אा", min_size=1, max_size=30),
        st.just(" "),
        st.just(""),
        st.booleans(),
    ).flatmap(lambda cell: st.sampled_from([cell, cell._replace(mark="^", colour=RED)])),
    max_size=20,
)


@given(cells=CELLS, columns=st.integers(1, 60))
def test_lines_fit_and_lose_nothing(cells: list[Cell], columns: int) -> None:
    plain, coloured = (list(wrapped(cells, Style(columns, colour=c))) for c in (False, True))
    assert [COLOUR.sub("", line) for line in coloured] == plain
    assert all(columns_of(line) <= max(columns, NARROWEST) for line in plain)
    texts = "".join(line for line in plain if set(line) - set(" ^"))
    shown = re.sub("[ \u25cc\u2068\u2069]", "", texts)
    assert shown == "".join(visible(cell.text) for cell in cells)
    marks = sum(line.count("^") for line in plain)
    least = sum(columns_of(visible(cell.text)) for cell in cells if cell.mark == "^")
    assert marks >= least - sum(len(cell.text) for cell in cells)


def test_lines_end_between_words() -> None:
    words = ["one", "two", "three", "four", "five", "six"]
    cells = [Cell(word, " ", "", follows=False) for word in words]
    cells[-1] = cells[-1]._replace(follows=True, mark="^")
    assert list(wrapped(cells, NARROW)) == ["one two three four", "fivesix", "    ^^^"]
    long = [Cell("x" * 25, "^", "", follows=False)]
    assert list(wrapped(long, NARROW)) == ["x" * 20, "^" * 20, "x" * 5, "^" * 5]


@pytest.mark.parametrize("colour", [False, True])
def test_less_important_lines_are_indented_and_fit(colour: bool) -> None:
    lines = list(dimmed("eighteen columns !! and more", Style(NARROWEST, colour=colour)))
    assert [COLOUR.sub("", line) for line in lines] == ["  eighteen columns", "  !! and more"]
    assert lines[0].startswith("\33[2m") == colour
    exact = list(dimmed("eighteen columns: x", Style(NARROWEST + 1, colour=colour)))
    assert [COLOUR.sub("", line) for line in exact] == ["  eighteen columns: x"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("electra"))


class Terminal:
    """A process whose three streams are one terminal, and what it has written there."""

    def __init__(self, model: Path, task: str, *arguments: str, **environment: str) -> None:
        self.ours, its = pty.openpty()
        where = ["--device", "reference", "--precision", "float64"]
        command = [sys.executable, "-m", "electra_ref.predict", "--model", str(model)]
        self.process = subprocess.Popen(
            [*command, "--task", task, *where, *arguments],
            stdin=its, stdout=its, stderr=its, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment},
        )  # fmt: skip
        os.close(its)
        self.written = ""

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.written and time.monotonic() < end:
            self.read()
        assert text in self.written, self.written

    def read(self) -> bool:
        try:
            data = os.read(self.ours, 1000)
        except OSError:  # nobody has the other end any more
            return False
        self.written += data.decode().replace("\r\n", "\n")
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def test_a_person_who_types_a_line_has_the_answer_at_once(model: Path) -> None:
    with Terminal(model, "mlm") as terminal:
        terminal.wait_for("type a line and press Enter; Ctrl-D ends")
        terminal.type("ae [MASK]\n")
        terminal.wait_for("  1: ")
        assert GREEN in terminal.written
        terminal.type("\n")
        terminal.wait_for("(empty line)")
        terminal.type("\x04")
        while terminal.read():
            pass
        assert terminal.process.wait(60) == 0
    assert "2 lines, 1 empty, 1 mask, " in terminal.written


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_switched_off(model: Path, environment: dict[str, str]) -> None:
    with Terminal(model, "mlm", **environment) as terminal:
        terminal.wait_for("Ctrl-D ends")
        terminal.type("ae [MASK]\n")
        terminal.wait_for("  1: ")
        terminal.type("\x04")
        while terminal.read():
            pass
    assert "\33" not in terminal.written


def test_json_can_be_asked_for_on_a_terminal(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    with Terminal(model, "rtd", "--format", "json", "--input", str(tmp_path / "a.txt")) as terminal:
        while terminal.read():
            pass
        assert terminal.process.wait(60) == 0
    assert '{"tokens": ["[CLS]", "a", "[SEP]"], ' in terminal.written
    assert "bytes read" not in terminal.written


def test_ctrl_c_ends_a_program_that_waits(model: Path) -> None:
    with Terminal(model, "rtd") as terminal:
        terminal.wait_for("Ctrl-D ends")
        terminal.process.send_signal(2)
        while terminal.read():
            pass
        assert terminal.process.wait(60) == 130
    assert "SIGINT: stopping after this batch" in terminal.written


def test_a_view_can_be_written_to_a_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    (tmp_path / "a.txt").write_text("a é\n\n", encoding="utf-8")
    output = tmp_path / "view.txt"
    paths = ["--input", str(tmp_path / "a.txt"), "--output", str(output)]
    assert run_predict(model, "rtd", *paths, "--format", "view") == 0
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "a é"
    assert lines[-2:] == ["(empty line)", ""]
    assert "\33" not in output.read_text(encoding="utf-8")
