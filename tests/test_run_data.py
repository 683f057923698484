"""The vocabulary of a run is the one it began with, or an error says how to get it back."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from electra_ref.batch import SPECIAL_TOKENS
from electra_ref.errors import UserError
from electra_ref.text.cache_folder import FORMAT_VERSION
from electra_ref.text.vocabulary import save_vocabulary
from electra_ref.training.pretraining.run import resume
from electra_ref.training.run_data import read_vocabulary, record_data
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.saved_model import open_model
from electra_ref.training.stop_signals import StopSignals
from tests.small_runs import begin_small, quiet, write_corpus

VOCABULARY = [*SPECIAL_TOKENS, "é", "river", "##s"]
CHANGED = "was changed or removed after the run began; "

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "electra_ref"


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> RunDirectory:
    """A run that knows its data."""
    del cache
    run = RunDirectory.create(tmp_path / "run", "", {})
    record_data(run, VOCABULARY, {"key": "tokens-1", "tokens": 5})
    run.close()
    return run


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def change_facts(run: RunDirectory, **facts: Any) -> None:
    run.data.write_text(json.dumps({**json.loads(run.data.read_bytes()), **facts}))


def test_the_record_holds_what_was_read_and_the_hash_of_the_file(run: RunDirectory) -> None:
    digest = hashlib.sha256(run.vocabulary.read_bytes()).hexdigest()
    facts = {
        "key": "tokens-1",
        "tokens": 5,
        "format": FORMAT_VERSION,
        "vocabulary_sha256": digest,
    }
    assert json.loads(run.data.read_text("utf-8")) == facts
    assert read_vocabulary(run) == VOCABULARY


def test_every_changed_byte_is_noticed(run: RunDirectory) -> None:
    for position in range(run.vocabulary.stat().st_size):
        flip(run.vocabulary, position)
        with pytest.raises(UserError, match=CHANGED):
            read_vocabulary(run)
        flip(run.vocabulary, position)
    assert read_vocabulary(run) == VOCABULARY


@pytest.mark.parametrize("where", ["the user's cache", "the run's cache"])
def test_the_error_names_a_copy_in_the_cache(where: str, run: RunDirectory, cache: Path) -> None:
    """The one with the bytes that are wanted, of several."""
    if where == "the run's cache":
        cache.touch()  # a file: there can be no folder
        cache = run.path / "cache"
    for name, vocabulary in (
        ("a", [*VOCABULARY, "x"]), ("b", VOCABULARY), ("c", [*VOCABULARY, "y"])
    ):  # fmt: skip
        (cache / name).mkdir(parents=True)
        save_vocabulary(cache / name / "vocab.txt", vocabulary)
    flip(run.vocabulary, 40)
    with pytest.raises(UserError) as caught:
        read_vocabulary(run)
    assert str(caught.value) == f"{run.vocabulary} {CHANGED}copy {cache / 'b/vocab.txt'} to it"


@pytest.mark.parametrize("has_cache", [True, False])
def test_without_a_copy_the_error_names_the_command_that_writes_one(
    has_cache: bool, run: RunDirectory, cache: Path
) -> None:
    if not has_cache:
        cache.touch()
        (run.path / "cache").touch()
    flip(run.vocabulary, 40)
    with pytest.raises(UserError) as caught:
        read_vocabulary(run)
    assert str(caught.value) == (
        f"{run.vocabulary} {CHANGED}put back a copy of it; a new run on the same data with "
        f"--config {run.config} --max-steps 1 also writes one"
    )


@pytest.mark.parametrize("how", ["vocabulary", "init_from"])
def test_a_vocabulary_that_was_given_is_copied_from_where_it_was(
    how: str, tmp_path: Path, cache: Path
) -> None:
    """A new run without it would train another one."""
    del cache
    (tmp_path / "given").mkdir()
    given = tmp_path / "given" / "vocab.txt"
    save_vocabulary(given, VOCABULARY)
    source = {how: str(given if how == "vocabulary" else given.parent)}
    run = RunDirectory.create(tmp_path / "run", "", {"source": source})
    record_data(run, VOCABULARY, {"key": "tokens-1"})
    run.close()
    flip(run.vocabulary, 40)
    for advice in (f"copy {given} to it", "put back a copy of it"):
        with pytest.raises(UserError) as caught:
            read_vocabulary(run)
        assert str(caught.value) == f"{run.vocabulary} {CHANGED}{advice}"
        given.unlink(missing_ok=True)


def test_runs_of_older_versions_have_no_hash_and_open(run: RunDirectory) -> None:
    change_facts(run, vocabulary_sha256=None)
    assert read_vocabulary(run) == VOCABULARY


@pytest.mark.parametrize("text", [None, "", "[]", "[1]", "nonsense", "[" * 100_000])
def test_a_damaged_record_does_not_hide_the_vocabulary(text: str | None, run: RunDirectory) -> None:
    run.data.unlink()
    if text is not None:
        run.data.write_text(text)
    assert read_vocabulary(run) == VOCABULARY


def test_a_vocabulary_that_is_gone_is_a_user_error(run: RunDirectory) -> None:
    run.vocabulary.unlink()
    with pytest.raises(UserError, match=CHANGED):
        read_vocabulary(run)


def test_a_run_and_its_model_open_after_what_the_errors_advise(tmp_path: Path, cache: Path) -> None:
    """Copy the file from the cache; without a cache, let a new run write it."""
    corpus = write_corpus(tmp_path / "corpus.txt")
    run = begin_small(tmp_path / "run", corpus).run
    run.close()
    flip(run.vocabulary, 40)
    with pytest.raises(UserError, match=f"{CHANGED}copy ") as caught:
        resume(run.path, [], None, quiet(), StopSignals())
    with pytest.raises(UserError, match=f"{CHANGED}copy "):
        open_model(run.path)
    copy = Path(str(caught.value).partition("; copy ")[2].removesuffix(" to it"))
    before = copy.read_bytes()
    shutil.copy(copy, run.vocabulary)
    resume(run.path, [], None, quiet(), StopSignals()).run.close()
    shutil.rmtree(cache)
    begin_small(tmp_path / "new", corpus).run.close()
    assert (tmp_path / "new/vocab.txt").read_bytes() == before
