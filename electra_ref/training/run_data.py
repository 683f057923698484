"""What a run read: ``data.json`` and ``vocab.txt``, written when its data are prepared.

The ids of a run mean nothing without its vocabulary, and a vocabulary with one letter changed looks
like any other. So ``data.json`` holds the SHA-256 of ``vocab.txt``, which is compared whenever the
vocabulary is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from electra_ref.errors import UserError
from electra_ref.files import disk_errors, write_json_atomically
from electra_ref.text.cache_folder import FORMAT_VERSION, find_cache_dir, is_key
from electra_ref.text.vocabulary import load_vocabulary, save_vocabulary
from electra_ref.training.run_directory import RunDirectory

_DIGEST = "vocabulary_sha256"


def record_data(run: RunDirectory, vocabulary: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Save the vocabulary of ``run``, then ``facts`` and its hash in ``data.json``.

    Raises UserError if the disk refuses.
    """
    save_vocabulary(run.vocabulary, vocabulary)
    facts = {**facts, "format": FORMAT_VERSION}
    digest = hashlib.sha256("".join(token + "\n" for token in vocabulary).encode()).hexdigest()
    write_json_atomically(run.data, {**facts, _DIGEST: digest})


def read_key(run: RunDirectory) -> str:
    """Return the key of the token cache, which ``facts`` must have held.

    Raises UserError if it cannot be read, and if this version divides the data otherwise.
    """
    try:
        facts = json.loads(run.data.read_bytes())
        key, version = facts["key"], facts.get("format", 2)
        if not is_key(key):
            raise ValueError(f"{key!r} is no key")
    except FileNotFoundError:
        raise UserError(
            f"{run.data} is missing: resume the run, and the data are prepared anew"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{run.data} is damaged: move it elsewhere and resume the run, and the data are "
            "prepared anew"
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"the run in {run.path} began with a version that held out other documents: resume it "
            "with that one (git_commit in environment.json), or start a new run"
        )
    return str(key)


def read_vocabulary(run: RunDirectory) -> list[str]:
    """Return the vocabulary of ``run``; its hash is compared if ``data.json`` has one.

    Raises UserError, with the way to repair it, if the file was changed, and if it cannot be read.
    """
    recorded, found = _recorded_digest(run), "of a file that is gone"
    with disk_errors(f"read the vocabulary {run.vocabulary}"), suppress(FileNotFoundError):
        found = _digest_of(run.vocabulary)
    if recorded not in (None, found):
        raise UserError(
            f"{run.vocabulary} was changed or removed after the run began; "
            f"{_how_to_get_it_back(run, recorded)}"
        )
    return load_vocabulary(run.vocabulary)


def _recorded_digest(run: RunDirectory) -> str | None:
    """Return None for runs of older versions, and where ``data.json`` cannot be read."""
    try:
        facts = json.loads(run.data.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return facts.get(_DIGEST) if isinstance(facts, dict) else None


def _how_to_get_it_back(run: RunDirectory, digest: str | None) -> str:
    given = _vocabularies_given(run)
    for path in (*given, *_vocabularies_in_cache(run)):
        with suppress(OSError):
            if _digest_of(path) == digest:
                return f"copy {path} to it"
    if given:
        return "put back a copy of it"
    return (
        "put back a copy of it; a new run on the same data with --config "
        f"{run.config} --max-steps 1 also writes one"
    )


def _vocabularies_given(run: RunDirectory) -> list[Path]:
    """Return the file of ``--vocab``, or that of the model of ``--init-from``."""
    with suppress(UserError):
        source = run.environment().get("source")
        if isinstance(source, dict) and isinstance(file := source.get("vocabulary"), str):
            return [Path(file)]
        if isinstance(source, dict) and isinstance(model := source.get("init_from"), str):
            return [Path(model) / run.vocabulary.name]
    return []


def _vocabularies_in_cache(run: RunDirectory) -> list[Path]:
    with suppress(OSError, UserError):
        return sorted(find_cache_dir(run.path / "cache").glob(f"*/{run.vocabulary.name}"))
    return []


def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
