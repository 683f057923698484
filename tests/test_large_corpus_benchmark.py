"""A cache of ten billion tokens opens at once; the benchmark of large corpora runs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import large_corpus
from benchmarks.large_cache import RULES, make_cache, open_cache
from electra_ref.batch import SpecialTokens
from electra_ref.errors import UserError
from electra_ref.text import embedded_corpus

TEN_BILLION = 10**10

pytestmark = pytest.mark.usefixtures("quick")


def test_a_cache_of_ten_billion_tokens_opens_in_less_than_five_seconds(tmp_path: Path) -> None:
    """In processor seconds, which other work on the machine does not change much."""
    key = make_cache(tmp_path, TEN_BILLION)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    training, held_out = open_cache(tmp_path, key)
    numbers = training.training_examples(7, 64, seed=0)
    batch = training.batch(numbers, RULES.max_length, SpecialTokens(0, 1, 2, 3, 4))
    assert time.process_time() - start < 5
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KB, on macOS bytes
    assert grown < 200 * 1024**2
    assert batch.input_ids.shape == (64, 128)
    assert training.cache.tokens.size == TEN_BILLION
    assert training.tokens + held_out.tokens == TEN_BILLION
    index = training.folder.sizes
    assert sum(index.values()) <= 12 * (training.count + held_out.count)
    rows = training.index.rows(numbers)
    assert rows.max() > 2**32, "the examples of a far run"
    shard = training.cache.shards[300].path
    (shard / "tokens.bin").write_bytes(b"")
    with pytest.raises(AssertionError):
        open_cache(tmp_path, key)
    first = int(training.cache.tokens.starts[300])
    with pytest.raises(UserError, match="has changed its size"):
        training.cache.tokens.check(rows[:, 0] * 0 + first)


def test_last_line_holds_all_figures_and_their_origin(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A cat sat on a mat.\nIt was a good cat.\n\n" * 200)
    options = ["--corpus", str(corpus), "--vocabulary-size", "30", "--repeats", "2"]
    assert large_corpus.main([*options, "--opened-tokens", "50000000"]) == 0
    *table, last = capfd.readouterr().out.splitlines()
    summary = json.loads(last)
    assert summary["benchmark"] == "large_corpus"
    assert [result["workers"] for result in summary["tokenizing"]] == [1, 2]
    assert all(len(result["rounds"]) == 2 for result in summary["tokenizing"])
    assert summary["sizes"]["sentences"] == 400
    assert summary["billion_sentences"]["tokens"] == summary["sizes"]["tokens"] * 10**9 / 400
    assert "commit" in summary["machine"]
    assert any("50,000,000 tokens" in line for line in table)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="memory is read from /proc")
def test_the_memory_of_a_process_is_its_own() -> None:
    """Also if this process is larger: it starts one of 60 MB."""
    ballast = np.ones(2 * 10**7)
    program = "import time; x = bytes(range(256)) * 240_000; time.sleep(1)"
    with large_corpus.PeakOfChildren() as peak:
        subprocess.run([sys.executable, "-c", program], check=True)
    assert 61 < peak.megabytes < 0.9 * ballast.nbytes / 1e6


def test_without_a_corpus_the_text_is_as_long_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""A text of a few words that stands in a module."""')
    monkeypatch.setattr(embedded_corpus, "documentation_files", lambda: [module])
    path = large_corpus.write_text(tmp_path / "text.txt", 1)
    assert path.stat().st_size == 1_000_000
