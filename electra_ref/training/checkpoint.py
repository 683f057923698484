"""Checkpoints that survive kill -9, a power cut and a failing disk.

    checkpoints/step-00001000/model.safetensors      one file for each group of tensors
                              optimizer.safetensors
                              checkpoint.json        format, step, state, size and SHA-256 of each

A checkpoint is written into a hidden folder beside its final one, each file and the folder forced
to the disk; one rename makes it visible, and the parent folder is forced to the disk before
anything older goes. What goes is renamed first, so that a half-deleted folder never carries a
checkpoint's name:

    .step-00001000.<8 hex digits>.tmp         being written
    .step-00001000.<8 hex digits>.replaced    makes way for a new one of its step
    .step-00001000.<8 hex digits>.old         being deleted

Files are read into memory, never mapped (a file that shrinks under a mapping is a SIGBUS), and
nothing is handed out before every byte agrees with its SHA-256; safetensors by itself accepts most
altered files. The JSON is read the strict way: it must be, byte for byte, what this module would
have written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from electra_ref.arrays import Array
from electra_ref.errors import UserError
from electra_ref.files import disk_errors, sync_folder, write_new_file

FORMAT = "electra_ref checkpoint 1"
MAX_STEP = 10**8 - 1
_INDEX = "checkpoint.json"
_MAX_INDEX_BYTES = (
    16 * 2**20
)  # nothing we write comes near; a hostile file must not fill the memory
_GROUP = re.compile(r"[a-z][a-z_]*")
_FILE = re.compile(r"checkpoint\.json|[a-z][a-z_]*\.safetensors")
_FOLDER = re.compile(r"step-([0-9]{8})")
_TEMPORARY = re.compile(r"\.(?P<name>step-[0-9]{8})\.[0-9a-f]{8}\.(?P<kind>tmp|replaced|old)")

Groups = Mapping[str, Mapping[str, Array]]


class CheckpointError(UserError):
    """A checkpoint that cannot be used: which one, and why."""


class NonFiniteError(UserError):
    """Something about to be saved holds NaN or infinity: which, and how much of it."""


class Checkpoint(NamedTuple):
    """What ``save_checkpoint`` was given, checked."""

    path: Path
    step: int
    groups: dict[str, dict[str, Array]]  # arrays may be read-only views of the file's bytes: copy
    state: dict[str, Any]


def save_checkpoint(
    directory: Path, step: int, groups: Groups, state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write ``directory/step-<step>`` and delete all but the newest ``keep``; return its path.

    ``groups`` maps a name ([a-z_]+, such as ``model`` and ``optimizer``) to host arrays by name;
    ``state`` is plain JSON (no tuples, string keys). ``directory`` must exist. A checkpoint of the
    same step is replaced; those of later steps belong to a continuation that this one supersedes,
    and go as well. On return the checkpoint outlasts a power cut.

    Raises NonFiniteError, before the disk is touched, if a tensor or the state holds NaN or
    infinity; and UserError if the disk refuses: the checkpoints before it are then still there, and
    no temporary.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    path = checkpoint_path(directory, step)
    contents = _serialize(step, groups, state)
    if directory.is_symlink() or path.is_symlink():
        raise UserError(
            f"cannot save {path}: a symbolic link stands in its place; replace it by a folder"
        )
    with disk_errors(f"save {path}"):
        try:
            _write(path, contents)
            _rotate(directory, step, keep)
        except BaseException:
            with suppress(OSError):
                _undo(directory)
            raise
    return path


def checkpoint_path(directory: Path, step: int) -> Path:
    """``directory/step-00001000`` for step 1000. Raises ValueError outside 0..MAX_STEP."""
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"step must be in 0..{MAX_STEP}, got {step}")
    return directory / f"step-{step:08d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in ``directory``, newest step first, unverified; [] if there is no folder.

    Links and other names are not checkpoints. Raises CheckpointError if the folder cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if _FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        return [directory / name for name in sorted(names, reverse=True)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror}") from error


def load_newest_checkpoint(
    directory: Path, *, warn: Callable[[str], object], like: Groups | None = None
) -> Checkpoint:
    """Load the newest sound checkpoint of ``directory``; ``warn`` hears of each refused one.

    ``like`` is as for ``load_checkpoint``. Raises CheckpointError if none is left.
    """
    paths = list_checkpoints(directory)
    for path in paths:
        try:
            return load_checkpoint(path, like=like)
        except CheckpointError as error:
            warn(f"{error}; trying the one before it")
    if paths:
        raise CheckpointError(f"none of the {len(paths)} checkpoints in {directory} can be used")
    raise CheckpointError(f"there is no checkpoint in {directory}")


def load_checkpoint(path: Path, *, like: Groups | None = None) -> Checkpoint:
    """Read one checkpoint and hand it out only if every byte is the one that was saved.

    ``like`` maps group names to arrays whose names, shapes and dtypes the groups must have. Raises
    CheckpointError: missing, truncated, altered or renamed files, another format, other shapes.
    """
    try:
        index = _parse_index(_read(path / _INDEX))
        groups = {
            name.removesuffix(".safetensors"): _read_tensors(
                path / name, entry["bytes"], entry["sha256"]
            )
            for name, entry in index["files"].items()
        }
    except OSError as error:
        raise _refused(path, f"{error.filename}: {error.strerror}") from error
    except _DamageError as error:
        raise _refused(path, str(error)) from error
    checkpoint = Checkpoint(path, index["step"], groups, index["state"])
    problem = _misnamed(checkpoint) or _non_finite(groups) or _unlike(groups, like or {})
    if problem:
        raise _refused(path, problem)
    return checkpoint


def recover_checkpoints(directory: Path) -> None:
    """Undo what a killed process left half done in ``directory``; no temporary stays.

    Only for the process that holds the run's lock. Raises UserError.
    """
    with disk_errors(f"tidy {directory}"):
        _undo(directory)


# Writing


def _serialize(step: int, groups: Groups, state: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of each file by name, the index last. Raises NonFiniteError."""
    problem = _non_finite(groups)
    if problem:
        raise NonFiniteError(f"step {step} is not saved: {problem}")
    files = {}
    for group, tensors in groups.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(f"a group is named [a-z_]+, got {group!r}")
        # safetensors copies memory as it lies, so a transposed view must be laid out first
        dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        files[f"{group}.safetensors"] = safetensors.numpy.save(dense, metadata={"format": "pt"})
    index = {
        "format": FORMAT,
        "step": step,
        "state": dict(state),
        "files": {
            name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()
        },
    }
    try:
        files[_INDEX] = _render_index(index)
    except ValueError as error:
        raise NonFiniteError(f"step {step} is not saved: its state: {error}") from error
    if json.loads(files[_INDEX])["state"] != state:
        raise TypeError("the state must be plain JSON: string keys, lists and no tuples")
    return files


def _render_index(index: Mapping[str, Any]) -> bytes:
    """The only spelling of ``index`` that is accepted; the last entry is a digest of the rest."""
    body = {key: value for key, value in index.items() if key != "sha256"}
    digest = _sha256(json.dumps(body, allow_nan=False).encode())
    return (json.dumps({**body, "sha256": digest}, indent=1, allow_nan=False) + "\n").encode()


def _write(path: Path, contents: Mapping[str, bytes]) -> None:
    """Make ``path`` hold ``contents``, durably, by one rename."""
    temporary = _temporary_path(path, "tmp")
    os.mkdir(temporary)
    for name, data in contents.items():
        write_new_file(temporary / name, data)
    sync_folder(temporary)
    if os.path.lexists(path):
        _rename_away(path, "replaced")  # until the next line is done, _undo would bring it back
    os.rename(temporary, path)
    sync_folder(path.parent)


def _rotate(directory: Path, step: int, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep`` up to ``step``, and every temporary."""
    saved = list_checkpoints(directory)
    kept = [path for path in saved if path <= checkpoint_path(directory, step)][:keep]
    unwanted = [path for path in saved if path not in kept and _holds_only_our_files(path)]
    for path in unwanted:
        _rename_away(path, "old")
    if unwanted:
        sync_folder(directory)
    _remove_temporaries(directory)


def _undo(directory: Path) -> None:
    """Bring back a checkpoint whose replacement never came; then delete every temporary."""
    for match in _temporaries(directory):
        target = directory / match["name"]
        if match["kind"] == "replaced" and not os.path.lexists(target):
            os.rename(directory / match.string, target)
    sync_folder(directory)  # whichever of the two has the name now, it is there to stay
    _remove_temporaries(directory)


def _remove_temporaries(directory: Path) -> None:
    """Delete them; a link, or a folder in which somebody keeps files of their own, stays."""
    for match in _temporaries(directory):
        path = directory / match.string
        if _holds_only_our_files(path):
            for name in os.listdir(path):
                os.unlink(path / name)
            os.rmdir(path)


def _temporaries(directory: Path) -> list[re.Match[str]]:
    matches = (_TEMPORARY.fullmatch(name) for name in sorted(os.listdir(directory)))
    return [match for match in matches if match]


def _rename_away(path: Path, kind: str) -> None:
    if not _holds_only_our_files(path):
        raise UserError(f"cannot replace {path}: it holds files of somebody else; move them away")
    os.rename(path, _temporary_path(path, kind))


def _temporary_path(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


def _holds_only_our_files(path: Path) -> bool:
    if not _is_folder(path):
        return False
    with os.scandir(path) as entries:
        return all(
            _FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            for entry in entries
        )


# Reading


class _DamageError(Exception):
    """Why a file is refused, without the name of its checkpoint."""


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is refused: {reason}")


def _read(path: Path, size: int | None = None) -> bytes:
    """All bytes of a regular file, of ``size`` bytes if given; nothing is allocated before."""
    # O_NONBLOCK: opening a named pipe must not wait for a writer
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _DamageError(f"{path.name} is not a file")
        if size is None and status.st_size > _MAX_INDEX_BYTES:
            raise _DamageError(f"{path.name} is {status.st_size} bytes long, which is too much")
        expected = status.st_size if size is None else size
        if status.st_size != expected:
            raise _DamageError(f"{path.name} is {status.st_size} bytes long instead of {expected}")
        data = stream.read(expected)
    if len(data) != expected:
        raise _DamageError(f"{path.name} shrank while it was read")
    return data


def _parse_index(data: bytes) -> dict[str, Any]:
    """Accept exactly what ``_render_index`` writes: no other spelling, duplicate key or NaN."""
    try:
        index = json.loads(data)
        genuine = isinstance(index, dict) and _render_index(index) == data
    except (ValueError, RecursionError):
        genuine = False
    if not genuine:
        raise _DamageError(f"{_INDEX} is truncated or altered")
    if index.get("format") != FORMAT:
        raise _DamageError(
            f"its format is {index.get('format')!r}, and this version reads {FORMAT!r}"
        )
    if not _is_well_formed(index):
        raise _DamageError(f"{_INDEX} does not describe a checkpoint")
    return index  # type: ignore[no-any-return]


def _is_well_formed(index: Mapping[str, Any]) -> bool:
    """Types only: a forged digest is easy to compute, and must not lead to a traceback either."""
    step, state, files = index.get("step"), index.get("state"), index.get("files")
    return (
        type(step) is int
        and 0 <= step <= MAX_STEP
        and isinstance(state, dict)
        and isinstance(files, dict)
        and all(
            _FILE.fullmatch(name)
            and name != _INDEX
            and isinstance(entry, dict)
            and entry.keys() == {"bytes", "sha256"}
            and type(entry["bytes"]) is int
            and isinstance(entry["sha256"], str)
            for name, entry in files.items()
        )
    )


def _read_tensors(path: Path, size: int, sha256: str) -> dict[str, Array]:
    data = _read(path, size)
    if _sha256(data) != sha256:
        raise _DamageError(f"{path.name} is altered: its SHA-256 is not the one recorded")
    try:
        tensors: dict[str, Array] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _DamageError(f"{path.name} is not a safetensors file: {error}") from error
    return tensors


# What makes sound bytes the wrong ones


def _misnamed(checkpoint: Checkpoint) -> str:
    """A reason if the folder has the name of another step's checkpoint."""
    match = _FOLDER.fullmatch(checkpoint.path.name)
    if match and int(match[1]) != checkpoint.step:
        return f"it holds step {checkpoint.step}, so it was renamed or copied over"
    return ""


def _non_finite(groups: Groups) -> str:
    """A reason that names the first tensor with NaN or infinity, or ""."""
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            bad = tensor.size - int(np.count_nonzero(np.isfinite(tensor)))
            if bad:
                return f"{group} tensor {name!r} has {bad} NaN or infinite of {tensor.size} values"
    return ""


def _unlike(groups: Groups, like: Groups) -> str:
    """A reason that names the first difference in names, shapes or dtypes, or ""."""
    for group, expected in like.items():
        found = groups.get(group)
        if found is None:
            return f"it has no {group}.safetensors"
        names = sorted(found.keys() ^ expected.keys())
        if names:
            verb = "lacks" if names[0] in expected else "has an unknown"
            return f"{group} {verb} tensor {names[0]!r}"
        for name, tensor in expected.items():
            have, want = found[name], (tensor.shape, tensor.dtype)
            if (have.shape, have.dtype) != want:
                return (
                    f"{group} tensor {name!r} is {have.dtype} {have.shape}, "
                    f"and the configuration asks for {tensor.dtype} {tensor.shape}"
                )
    return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
