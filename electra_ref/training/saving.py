"""Saves the state of a run and restores it: checkpoints, and the best model beside them.

Of several processes, the first one alone reads and writes. All have the same state: it gives them
what it has read, and nothing is saved unless they agree.
"""

from __future__ import annotations

import dataclasses
import shlex
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from electra_ref.backends import Backend
from electra_ref.config.training import TrainingConfig
from electra_ref.errors import UserError
from electra_ref.files import disk_errors
from electra_ref.model.parameters import FlatParameters
from electra_ref.processes import Processes
from electra_ref.training.checkpoint import (
    Groups,
    checkpoint_path,
    delete_later_checkpoints,
    list_checkpoints,
    load_newest_checkpoint,
    save_checkpoint,
)
from electra_ref.training.continuation import (
    configuration_of,
    last_step_without_checkpoint,
    record_changes,
    state_of,
)
from electra_ref.training.optimizer import TrainingState
from electra_ref.training.records import Records, held_out_records, truncate_records
from electra_ref.training.run_directory import RunDirectory
from electra_ref.training.task import Task


class Saver:
    """What keeps the ``state`` of one run in its folder."""

    def __init__(
        self,
        config: TrainingConfig,
        backend: Backend,
        state: TrainingState,
        task: Task,
        run: RunDirectory,
        processes: Processes,
    ) -> None:
        self.config, self.backend, self.state, self.task = config, backend, state, task
        self.run, self.processes = run, processes
        self.saved_step = 0  # of the newest checkpoint

    def save(self, records: Records) -> None:
        """Save a checkpoint of the present step, after its ``records``.

        Raises UserError, also if the processes have drifted apart.
        """
        self._require_one_state()
        self.processes.of_first(lambda: self._write_checkpoint(records))
        self.saved_step = self.state.step

    def is_best(self, records: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the present model was evaluated, and is to be kept.

        ``records`` are the evaluations so far.
        """
        is_present = bool(records) and records[-1]["step"] == self.state.step
        return is_present and self.task.is_best(records)

    def save_best(self) -> None:
        """Keep the present model beside the checkpoints, in the place of the one kept before.

        Its checkpoint is saved already, so a run that is killed does not resume before it.
        """
        self.processes.of_first(self._write_best)

    def restore(self, before: TrainingConfig, say: Callable[[str], object]) -> None:
        """Do what ``Trainer.restore`` does; ``say`` what people must know."""
        self.processes.of_first(lambda: self._restore(before, say))
        self.share()
        self.saved_step = self.state.step

    def share(self) -> None:
        """Give all processes the state of the first one."""
        state = self.state
        state.step = self.processes.of_first(lambda: state.step)
        if self.processes.size == 1:
            return
        for flat in self._flats():
            vector = self.backend.to_host(flat.vector)
            self.processes.share(vector)
            flat.vector[...] = self.backend.to_device(vector)

    def _restore(self, before: TrainingConfig, say: Callable[[str], object]) -> None:
        if list_checkpoints(self.run.checkpoints):
            identity, saved = self.task.identity(), self.run.checkpoints
            newest = load_newest_checkpoint(saved, warn=lambda _: None, groups=())
            configuration_of(newest, identity, self.config, self.run)  # before shapes are compared
            checkpoint = load_newest_checkpoint(saved, warn=say, like=self._groups())
            then = configuration_of(checkpoint, identity, self.config, self.run)
            for views, group in zip(self._views(), ("model", "optimizer"), strict=True):
                for name, view in views.items():
                    view[...] = self.backend.to_device(checkpoint.groups[group][name])
            self.state.step = checkpoint.step
        else:
            if last := last_step_without_checkpoint(self.run, before):
                say(f"no checkpoint was due up to step {last}: beginning at step 0")
            then = dataclasses.asdict(self.config)
        for path in (self.run.metrics, self.run.samples):
            truncate_records(path, self.state.step)
        self._restore_best()
        for key, old, new in record_changes(self.run, self.state.step, then, self.config):
            say(f"from step {self.state.step} on: {key} = {new}, before {old}")

    def _restore_best(self) -> None:
        """Make what is kept fit the records: a killed run may have just evaluated its best model.

        A model of a later step is deleted: newer checkpoints were damaged, and their steps are made
        again.
        """
        kept = checkpoint_path(self.run.best, self.state.step)
        delete_later_checkpoints(self.run.best, self.state.step)
        is_kept = kept in list_checkpoints(self.run.best)
        if self.is_best(held_out_records(self.run.metrics)) and not is_kept:
            self._write_best()

    def _write_best(self) -> None:
        with disk_errors(f"save {self.run.best}"):
            self.run.best.mkdir(exist_ok=True)
        model = {name: self.backend.to_host(x) for name, x in self.state.parameters.views.items()}
        state = state_of(self.task.identity(), dataclasses.asdict(self.config))
        save_checkpoint(self.run.best, self.state.step, {"model": model}, state, keep=1)

    def _write_checkpoint(self, records: Records) -> None:
        for file in records:
            file.sync()
        save_checkpoint(
            self.run.checkpoints,
            self.state.step,
            self._groups(),
            state_of(self.task.identity(), dataclasses.asdict(self.config)),
            keep=self.config.keep_checkpoints,
        )

    def _require_one_state(self) -> None:
        """Raise UserError if the processes have parameters or moments that differ."""
        if self.processes.size == 1:
            return
        digest = 0
        for flat in self._flats():
            digest = zlib.crc32(self.backend.to_host(flat.vector).data, digest)
        for rank, other in enumerate(self.processes.gather(digest)):
            if other != digest:
                raise UserError(
                    f"step {self.state.step} is not saved: processes {self.processes.rank} and "
                    f"{rank} have drifted apart, so the memory or the processor of one of them may "
                    "be faulty; go on from the last checkpoint on other nodes: --resume "
                    f"--output-dir {shlex.quote(str(self.run.path))}"
                )

    def _flats(self) -> tuple[FlatParameters, FlatParameters, FlatParameters]:
        return self.state.parameters, self.state.first_moment, self.state.second_moment

    def _views(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the model's parameters and the optimizer's moments by their names in a file."""
        state = self.state
        moments = {
            f"{moment}.{name}": view
            for moment, flat in (
                ("first_moment", state.first_moment),
                ("second_moment", state.second_moment),
            )
            for name, view in flat.views.items()
        }
        return dict(state.parameters.views), moments

    def _groups(self) -> Groups:
        model, optimizer = (
            {name: self.backend.to_host(view) for name, view in views.items()}
            for views in self._views()
        )
        return {"model": model, "optimizer": optimizer}
