"""Checkpoints that survive kill -9, a power cut and a failing disk.

    checkpoints/step-00001000/model.safetensors      one file for each group of tensors
                              optimizer.safetensors
                              checkpoint.json        format, step, state, size and SHA-256 of each

A checkpoint is a sealed folder. It is written under a hidden name. One rename makes it visible, and
its parent folder is forced to the disk before anything older is deleted. A folder is renamed before
it is deleted, so that a half-deleted folder never has the name of a checkpoint:

    .step-00001000.<8 hex digits>.tmp         being written
    .step-00001000.<8 hex digits>.replaced    about to be replaced by a new one of its step
    .step-00001000.<8 hex digits>.old         being deleted

Files are read into memory, never mapped: if a mapped file shrinks, the process ends with SIGBUS.
Each group is in a file of its own, so a model can be read without the optimizer's moments.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import safetensors.numpy

from electra_ref.arrays import Array
from electra_ref.errors import UserError
from electra_ref.files import (
    disk_errors,
    rename_durably,
    sync_folder,
    temporary_name,
    write_new_file,
)
from electra_ref.sealed_folder import DamageError, Entry, check_file, read_index, seal
from electra_ref.tensor_file import TensorFile, TensorFileError

FORMAT = "electra_ref checkpoint 1"
MAX_STEP = 10**8 - 1
_INDEX = "checkpoint.json"
_GROUP = re.compile(r"[a-z][a-z_]*")
_FILE = re.compile(r"checkpoint\.json|[a-z][a-z_]*\.safetensors")
_FOLDER = re.compile(r"step-[0-9]{8}")
_TEMPORARY = re.compile(r"\.(?P<name>step-[0-9]{8})\.[0-9a-f]{8}\.(?P<kind>tmp|replaced|old)")

Result = TypeVar("Result")
Groups = Mapping[str, Mapping[str, Array]]


class CheckpointError(UserError):
    """A checkpoint that cannot be used: which one, and why."""


class NonFiniteError(UserError):
    """What was computed, is read or was to be saved holds NaN or infinity."""


class Checkpoint(NamedTuple):
    """What ``save_checkpoint`` was given, or the groups of it that were read."""

    path: Path
    step: int
    groups: dict[str, dict[str, Array]]  # read-only
    state: dict[str, Any]


def save_checkpoint(
    directory: Path, step: int, groups: Groups, state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write ``directory/step-<step>`` and delete all but the newest ``keep``; return its path.

    ``groups`` maps a name ([a-z_]+, such as ``model`` and ``optimizer``) to host arrays by name.
    ``state`` is plain JSON (no tuples, string keys). ``directory`` must exist. A checkpoint of the
    same step is replaced. Checkpoints of later steps are deleted: they belong to a continuation
    that this one replaces. After the return, no power cut loses the checkpoint.

    Raises NonFiniteError, before the disk is touched, if a tensor or the state holds NaN or
    infinity. Raises UserError if the disk refuses; the earlier checkpoints are then still there,
    and no temporary is.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    path = checkpoint_path(directory, step)
    _check_savable(step, groups, state)
    facts = {"format": FORMAT, "step": step, "state": dict(state)}
    if directory.is_symlink() or path.is_symlink():
        raise UserError(
            f"cannot save {path}: a symbolic link is in its place; replace it by a folder"
        )
    with disk_errors(f"save {path}"):
        try:
            _write(path, facts, groups)
            _rotate(directory, step, keep)
        except BaseException:
            with suppress(OSError):
                _undo(directory)
            raise
    return path


def checkpoint_path(directory: Path, step: int) -> Path:
    """Return ``directory/step-00001000`` for step 1000. Raises ValueError outside 0..MAX_STEP."""
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"step must be in 0..{MAX_STEP}, got {step}")
    return directory / f"step-{step:08d}"


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints in ``directory``, newest step first, unread; [] without a folder.

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
    directory: Path,
    *,
    warn: Callable[[str], object],
    like: Groups | None = None,
    groups: Collection[str] | None = None,
) -> Checkpoint:
    """Load the newest intact checkpoint of ``directory``: see ``load_checkpoint``."""
    return read_newest(directory, lambda p: load_checkpoint(p, like=like, groups=groups), warn)


def read_newest(
    directory: Path, read: Callable[[Path], Result], warn: Callable[[str], object]
) -> Result:
    """Return what ``read`` returns for the newest checkpoint that it does not refuse.

    It refuses by CheckpointError; ``warn`` is called for each. Raises CheckpointError if none is
    left.
    """
    paths = list_checkpoints(directory)
    for path in paths:
        try:
            return read(path)
        except CheckpointError as error:
            warn(f"{error}; trying the one before it")
    if paths:
        raise CheckpointError(f"none of the {len(paths)} checkpoints in {directory} can be used")
    raise CheckpointError(f"there is no checkpoint in {directory}")


def load_checkpoint(
    path: Path, *, like: Groups | None = None, groups: Collection[str] | None = None
) -> Checkpoint:
    """Read one checkpoint; return it only if every byte is the one that was saved.

    If ``groups`` is given, read and check the index and the files of these groups only. ``like``
    maps names of groups to arrays; a group that is read must have their names, shapes and dtypes.
    Memory: the bytes of the files that are read. Raises CheckpointError: missing, truncated,
    altered or renamed files, another format, other shapes.
    """
    like = like or {}
    with _refusing(path):
        step, state, files = _read_index(path)
        if groups is None:
            groups = {*(name.removesuffix(".safetensors") for name in files), *like}
        found = {group: _read_tensors(path, group, files) for group in sorted(groups)}
        if problem := _non_finite(found) or _unlike(found, like):
            raise DamageError(problem)
    return Checkpoint(path, step, found, state)


@contextmanager
def open_tensors(path: Path, group: str) -> Iterator[tuple[int, TensorFile]]:
    """Give the step of a checkpoint and the file of ``group``, once every byte is checked.

    Raises CheckpointError, also for a DamageError of the block.
    """
    with _refusing(path):
        step, _, files = _read_index(path)
        with _opened_group(path, group, files) as file:
            yield step, file


def recover_checkpoints(directory: Path) -> None:
    """Undo what a killed process left half done in ``directory``; delete all temporaries.

    Only for the process that holds the run's lock. Raises UserError.
    """
    with disk_errors(f"tidy {directory}"):
        _undo(directory)


def delete_later_checkpoints(directory: Path, step: int) -> None:
    """Delete the checkpoints of steps after ``step``, if ``directory`` is there.

    Raises UserError, also for one that holds files of somebody else.
    """
    if not list_checkpoints(directory):
        return
    with disk_errors(f"tidy {directory}"):
        _rotate(directory, step, MAX_STEP)
    for path in list_checkpoints(directory):
        if path > checkpoint_path(directory, step):
            raise UserError(
                f"cannot delete {path}: it holds files of somebody else; move them away"
            )


# Writing


def _check_savable(step: int, groups: Groups, state: Mapping[str, Any]) -> None:
    """Raise NonFiniteError, ValueError or TypeError for what would not come back as it is."""
    problem = _non_finite(groups)
    if problem:
        raise NonFiniteError(f"step {step} is not saved: {problem}")
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise ValueError(f"a group is named [a-z_]+, got {group!r}")
    try:
        text = json.dumps(dict(state), allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(f"step {step} is not saved: its state: {error}") from error
    if json.loads(text) != state:
        raise TypeError("the state must be plain JSON: string keys, lists and no tuples")


def _write(path: Path, facts: Mapping[str, Any], groups: Groups) -> None:
    """Make ``path`` hold a checkpoint, durably, by one rename. Raises OSError."""
    temporary = path.with_name(temporary_name(path.name))
    os.mkdir(temporary)
    _fill(temporary, facts, groups)
    if os.path.lexists(path):
        _rename_away(path, "replaced")  # until the new one has the name, _undo brings this back
    rename_durably(temporary, path)


def _fill(folder: Path, facts: Mapping[str, Any], groups: Groups) -> None:
    """Write the files of a checkpoint, forced to the disk. Raises OSError."""
    for group, tensors in groups.items():
        # safetensors copies memory as it lies, so a transposed view must be laid out first
        dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        data = safetensors.numpy.save(dense, metadata={"format": "pt"})
        write_new_file(folder / f"{group}.safetensors", data)
    seal(folder / _INDEX, facts)


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
    """Rename back a checkpoint that was not replaced after all; then delete every temporary."""
    for match in _temporaries(directory):
        target = directory / match["name"]
        if match["kind"] == "replaced" and not os.path.lexists(target):
            os.rename(directory / match.string, target)
    sync_folder(directory)  # the name is durable before the other folder is deleted
    _remove_temporaries(directory)


def _remove_temporaries(directory: Path) -> None:
    """Delete the temporaries; leave a link, and a folder that holds files of somebody else."""
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
    os.rename(path, path.with_name(temporary_name(path.name, kind)))


def _holds_only_our_files(path: Path) -> bool:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        return False
    with os.scandir(path) as entries:
        return all(
            _FILE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            for entry in entries
        )


# Reading


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn an error of reading into a CheckpointError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
        raise CheckpointError(f"checkpoint {path} is refused: {reason}") from error
    except DamageError as error:
        raise CheckpointError(f"checkpoint {path} is refused: {error}") from error


def _read_index(path: Path) -> tuple[int, dict[str, Any], dict[str, Entry]]:
    """Return step, state and files. Raises OSError, DamageError."""
    facts, files = read_index(path / _INDEX, FORMAT)
    step, state = _step_and_state(facts)
    if _FOLDER.fullmatch(path.name) and path != checkpoint_path(path.parent, step):
        raise DamageError(f"it holds step {step}, so it was renamed or copied over")
    return step, state, files


def _step_and_state(facts: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return both from the index. Raises DamageError if they have other types."""
    step, state = facts.get("step"), facts.get("state")
    if type(step) is not int or not 0 <= step <= MAX_STEP or not isinstance(state, dict):
        raise DamageError(f"{_INDEX} does not describe a checkpoint")
    return step, state


@contextmanager
def _opened_group(path: Path, group: str, files: Mapping[str, Entry]) -> Iterator[TensorFile]:
    """Open the file of ``group``, once its bytes are checked. Raises OSError, DamageError."""
    name = f"{group}.safetensors"
    if name not in files:
        raise DamageError(f"it has no {name}")
    check_file(path / name, files[name])
    try:
        with TensorFile(path / name, follow_links=False) as file:
            yield file
    except TensorFileError as error:  # other bytes with a good digest
        raise DamageError(f"{name} is not a safetensors file: {error}") from error


def _read_tensors(path: Path, group: str, files: Mapping[str, Entry]) -> dict[str, Array]:
    """Return the tensors of ``group``, read-only. Raises OSError, DamageError."""
    with _opened_group(path, group, files) as file:
        tensors = {}
        for name, entry in file.entries.items():
            tensors[name] = np.empty(entry.shape, file.dtype_of(name))
            file.read_into(name, tensors[name])
            tensors[name].flags.writeable = False
        return tensors


def _non_finite(groups: Groups) -> str:
    """Return a reason that names the first tensor with NaN or infinity, or ""."""
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            # with such a term no sum is finite, and a sum takes no memory
            with np.errstate(all="ignore"):
                if np.isfinite(tensor.sum()):
                    continue
            bad = tensor.size - int(np.count_nonzero(np.isfinite(tensor)))
            if bad:
                return f"{group} tensor {name!r} has {bad} NaN or infinite of {tensor.size} values"
    return ""


def _unlike(groups: Groups, like: Groups) -> str:
    """Return a reason that names the first difference in names, shapes or dtypes, or ""."""
    for group, found in groups.items():
        expected = like.get(group, found)
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
