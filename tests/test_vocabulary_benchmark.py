"""The vocabulary benchmark runs and prints what it should; no time is asserted here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import vocabulary


@pytest.mark.slow
def test_last_line_holds_every_text_and_its_origin(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "find_spec", lambda _: None)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A cat sat on a mat.\nIt was a good cat.\n\n" * 40)
    options = ["--corpus", str(corpus), "--vocabulary-size", "30", "--repeats", "2"]
    assert vocabulary.main(options) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["benchmark"] == "vocabulary"
    assert [result["text"] for result in summary["results"]] == list(vocabulary.TEXTS)
    assert all(len(result["all_seconds"]) == 2 for result in summary["results"])
    assert all(result["pieces"] == 30 for result in summary["results"])
    assert "commit" in summary["machine"]
    assert any("text without spaces: electra_ref" in line for line in table)


def test_words_of_the_text_without_spaces_are_short_enough(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("word " * 100 + "\nend")
    paths = vocabulary.write_texts(tmp_path / "corpus.txt", tmp_path)
    words = Path(paths["text without spaces"]).read_text().split()
    assert [len(word) for word in words] == [100] * 4 + [3]
    assert Path(paths["text"]).read_text().split() == ["word"] * 100 + ["end"]
