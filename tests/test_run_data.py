"""The vocabulary of a run is the one it began with, or an error says how to get it back."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from electra_ref.errors import UserError
from electra_ref.training.pretraining.run import begin, resume
from electra_ref.training.pretraining.source import Source
from electra_ref.training.run_data import read_vocabulary
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import open_model
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, quiet, small_config, write_corpus


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run at step 0, its data in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = begin_small(tmp_path / "run", write_corpus(tmp_path / "corpus.txt")).run
    run.close()
    return run


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 40, -2])
def test_a_changed_vocabulary_is_noticed_and_can_be_copied_back(
    position: int, run: RunDirectory, tmp_path: Path
) -> None:
    flip(run.vocabulary, position)
    with pytest.raises(UserError, match="was changed after the run began") as caught:
        resume(run.path, None, quiet(), StopSignals())
    with pytest.raises(UserError, match="was changed after the run began"):
        open_model(run.path)
    found = re.search(r"; copy (\S+) to it$", str(caught.value))
    assert found
    assert found[1].startswith(str(tmp_path / "cache"))
    shutil.copy(found[1], run.vocabulary)
    resume(run.path, None, quiet(), StopSignals()).run.close()


def test_without_the_cache_a_new_run_writes_it_again(run: RunDirectory, tmp_path: Path) -> None:
    before = run.vocabulary.read_bytes()
    shutil.rmtree(tmp_path / "cache")
    flip(run.vocabulary, 0)
    with pytest.raises(UserError, match=f"a new run .* --config {run.config} --max-steps 1 also"):
        read_vocabulary(run)
    begin_small(tmp_path / "new", tmp_path / "corpus.txt").run.close()
    assert (tmp_path / "new/vocab.txt").read_bytes() == before


def test_the_vocabulary_of_token_ids_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 50, (40, 30)))
    source = Source([], str(tmp_path / "ids.npy"))
    run = begin(tmp_path / "run", small_config(), source, quiet(), StopSignals()).run
    run.close()
    assert len(read_vocabulary(run)) == 55
    run.vocabulary.write_bytes(run.vocabulary.read_bytes() + b"50\n")
    with pytest.raises(UserError, match="was changed after the run began"):
        read_vocabulary(run)


def test_runs_of_older_versions_have_no_hash_and_open(run: RunDirectory) -> None:
    facts = json.loads(run.data.read_bytes())
    del facts["vocabulary_sha256"]
    run.data.write_text(json.dumps(facts))
    resume(run.path, None, quiet(), StopSignals()).run.close()


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "[" * 100_000])
def test_a_damaged_record_does_not_hide_the_vocabulary(text: str, run: RunDirectory) -> None:
    run.data.write_text(text)
    assert len(read_vocabulary(run)) == 60
    with pytest.raises(UserError, match="is damaged"):
        resume(run.path, None, quiet(), StopSignals())


def test_a_vocabulary_that_is_gone_is_a_user_error(run: RunDirectory) -> None:
    run.vocabulary.unlink()
    with pytest.raises(UserError, match="cannot read the vocabulary"):
        read_vocabulary(run)
