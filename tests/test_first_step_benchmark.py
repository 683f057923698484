"""The first-step benchmark times fresh processes; no time is asserted here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import first_step

SIZES = ["max_vocab_size=64", "hidden_size=8", "embedding_size=8", "num_attention_heads=2"]
SIZES += ["intermediate_size=8", "generator_hidden_size=1.0", "batch_size=2", "max_length=16"]


@pytest.mark.slow
def test_last_line_holds_every_run_and_its_origin(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without compilation, which takes longer than a test may."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A cat sat on a mat.\nIt was a good cat.\n\n" * 40)
    settings = [argument for size in SIZES for argument in ("--set", size)]
    options = ["--corpus", str(corpus), "--precision", "float32", "--warm", "2"]
    assert first_step.main([*options, *settings]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["benchmark"] == "first_step"
    counts = {name: len(seconds) for name, seconds in summary["all_seconds"].items()}
    assert counts == {"empty caches": 1, "full caches": 2, "import electra_ref": 2}
    assert all(spread["min"] > 0 for spread in summary["seconds"].values())
    assert "commit" in summary["machine"]
    assert any("full caches" in line for line in table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--warm", "0"], "--warm 0: at least 1"),
        (["--set", "hiden_size=2"], "unknown key 'hiden_size'"),
        (["--corpus", "/nowhere"], "/nowhere"),
    ],
)
def test_a_run_that_fails_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert first_step.main(arguments) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
