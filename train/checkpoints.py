"""Checkpoints of a run: the state and the position in the data of one step, all or nothing.

Orbax writes a step into a temporary folder and renames it when it is complete (in a bucket, which
cannot rename, it marks complete steps), so that a run killed at any moment leaves whole steps and
leftovers that are never read.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointHandler, CheckpointSave

from medusa_jax.errors import UserError
from medusa_jax.io.json_file import read_json
from medusa_jax.sharding import key_name, param_shardings, with_shardings
from train.fingerprint import claim
from train.folder import AnyPath, reaching, restoring, run_path, saving
from train.preservation import SCORE, LatestAndBest, score_of

_FOLDER = "checkpoints"


class Checkpoints:
    """Saves and restores one run in one folder; a context manager that ends with the last save.

    Every process of a run makes one and calls every method at the same steps.
    """

    def __init__(
        self,
        workdir: str | AnyPath,
        *,
        save_every: int,
        keep: int,
        fingerprint: Mapping[str, Any],
    ):
        """Claims a folder.

        Args:
          workdir: made if missing, or gs://BUCKET/PATH; the same for all processes.
          save_every: steps between checkpoints.
          keep: checkpoints to keep besides the one with the highest score.
          fingerprint: what must not change between a run and its continuation; JSON values.

        Raises:
          UserError: the folder cannot be written, or it holds a run with another fingerprint.
        """
        self._workdir = _absolute(workdir)
        with reaching(self._workdir):
            _make(self._workdir)
            is_started = has_steps(self._workdir)
            claim(self._workdir, fingerprint, is_started=is_started)
        self._save_every = save_every
        with reaching(self._workdir):
            _check_metrics(self._workdir)
            self._manager = _manager(
                self._workdir,
                preservation_policy=LatestAndBest(keep),
                best_fn=score_of,
                best_mode="max",
                cleanup_tmp_directories=True,
            )
            best = self.best
        self._highest = -math.inf if best is None else score_of(self._manager.metrics(best))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> int | None:
        """The last step, which may still be in the middle of being saved."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the highest score, among those that are kept and have one."""
        step = self._manager.best_step()
        is_judged = step is not None and score_of(self._manager.metrics(step)) > -math.inf
        return step if is_judged else None

    def metrics(self, step: int) -> dict[str, float]:
        """The "score" and the notes that a checkpoint was saved with, where it has them."""
        return dict(self._manager.metrics(step) or {})

    def is_due(self, step: int, *, force: bool = False) -> bool:
        """Whether `save` would save; the same on every process."""
        # Orbax would ask the other processes every time.
        is_wanted = force or step % self._save_every == 0
        return is_wanted and (self.latest is None or step > self.latest)

    def is_best(self, score: float | None) -> bool:
        """Whether a score is higher than all that checkpoints have been saved with."""
        return score is not None and score > self._highest

    def save(
        self,
        step: int,
        state: Any,
        data: grain.DatasetIterator | None = None,
        *,
        score: float | None = None,
        notes: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> None:
        """Saves a step in the background, if it is due.

        On return the state's buffers may be donated: what is not on the host yet has been copied.

        Args:
          step: steps done.
          state: pytree of arrays, sharded as they are.
          data: an iterator that has given the batches of these steps, and no more.
          score: see `train.ranking`, the same on every process; higher is better.
          notes: numbers to keep with it.
          force: save even if no checkpoint is due; a saved step is never replaced.

        Raises:
          UserError: the folder cannot be written any more, perhaps because the disk is full.
        """
        if not self.is_due(step, force=force):
            return
        items: dict[str, Any] = {"state": ocp.args.PyTreeSave(state)}  # pyright: ignore[reportCallIssue]
        if data is not None:
            items["data"] = CheckpointSave(data)
        metrics = dict(notes or {}) | ({} if score is None else {SCORE: float(score)})
        self._highest = max(self._highest, score_of(metrics))
        args = ocp.args.Composite(**items)
        with saving(self._workdir):  # also raises what went wrong in the save before
            self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, state: Any, data: grain.DatasetIterator | None = None) -> Any:
        """The last state, on the devices that `state` names, whatever mesh saved it.

        Args:
          state: pytree like the saved one, of arrays or of `jax.ShapeDtypeStruct`s with shardings.
          data: iterator to set back to where it was.

        Returns:
          Arrays in the structure of `state`.

        Raises:
          UserError: there is no checkpoint, or its arrays differ in name, shape or dtype.
        """
        self.wait()
        step = _step_of(self._manager, self._workdir, None)
        folder = self._workdir / _FOLDER / str(step)
        with restoring(folder):
            _check_fits(folder, self._manager.item_metadata(step)["state"], state)
            if data is not None:
                _go_to(data, folder / "data")
            args = ocp.args.Composite(state=_restore_args(state))
            return self._manager.restore(step, args=args)["state"]

    def wait(self) -> None:
        """Returns when the step that is being saved is complete on disk; raises as `save` does."""
        with saving(self._workdir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        with saving(self._workdir):
            self._manager.close()


def read_params(
    workdir: str | AnyPath, mesh: jax.sharding.Mesh, step: int | None = None
) -> tuple[int, dict[str, Any]]:
    """The trained parameters in a run's folder, whatever they are; changes nothing there.

    Args:
      workdir: of the run; also gs://BUCKET/PATH.
      mesh: where to put them, by `medusa_jax.sharding.param_shardings`.
      step: default: the last one.

    Returns:
      The step, and state["params"] of that step.

    Raises:
      UserError: there is no checkpoint, or none of that step.
    """
    workdir = _absolute(workdir)
    with reaching(workdir):
        exists = (workdir / _FOLDER).is_dir()
    if not exists:
        raise UserError(f"{workdir} holds no checkpoint: name the --workdir of a run")
    with reaching(workdir):
        _check_metrics(workdir)
    with reaching(workdir), _manager(workdir, create=False) as manager:
        step = _step_of(manager, workdir, step)
        with restoring(workdir / _FOLDER / str(step)):
            stored = manager.item_metadata(step)["state"].tree["params"]
            wanted = {"params": with_shardings(stored, param_shardings(mesh, stored))}
            args = ocp.args.Composite(state=_restore_args(wanted, partial=True))
            return step, manager.restore(step, args=args)["state"]["params"]


def _absolute(workdir: str | AnyPath) -> AnyPath:
    path = run_path(workdir)
    return path.absolute() if isinstance(path, Path) else path


def _make(workdir: AnyPath) -> None:
    if not isinstance(workdir, Path):
        return  # folders in a bucket are no more than names
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to {workdir} ({error.strerror}): choose another --workdir"
        ) from None


def has_steps(workdir: AnyPath) -> bool:
    """Whether a folder has checkpoints."""
    folder = workdir / _FOLDER
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _check_metrics(workdir: AnyPath) -> None:
    """Names a damaged file: Orbax, which reads the scores of all steps, would not."""
    for file in (workdir / _FOLDER).glob("*/metrics/metrics"):
        step = file.parent.parent
        if step.name.isdigit():
            read_json(file, f"move {step} away, and the checkpoint before it counts")


def _manager(workdir: AnyPath, **options: Any) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        workdir / _FOLDER,
        options=ocp.CheckpointManagerOptions(**options),
        item_handlers={"state": ocp.PyTreeCheckpointHandler(), "data": CheckpointHandler()},  # pyright: ignore[reportArgumentType]
    )


def _restore_args(state: Any, partial: bool = False) -> Any:
    restore_args = ocp.checkpoint_utils.construct_restore_args(state)
    return ocp.args.PyTreeRestore(state, restore_args=restore_args, partial_restore=partial)  # pyright: ignore[reportCallIssue]


def _step_of(manager: ocp.CheckpointManager, workdir: AnyPath, step: int | None) -> int:
    steps = sorted(manager.all_steps())
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint: name the --workdir of a run")
    if step is not None and step not in steps:
        raise UserError(f"{workdir} holds no checkpoint of step {step}: choose one of {steps}")
    return steps[-1] if step is None else step


def _check_fits(folder: AnyPath, stored: Any, wanted: Any) -> None:
    old, new = _leaves(stored.tree), _leaves(wanted)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise UserError(
                f"the checkpoint {folder} has {name} as {old.get(name, 'nothing')}, this run as "
                f"{new.get(name, 'nothing')}: resume with the settings that it was made with, or "
                "choose another --workdir"
            )


def _leaves(tree: Any) -> dict[str, str]:
    """Every leaf's path, in names that survive a checkpoint, and its dtype and shape."""
    return {
        "/".join(key_name(key) for key in path): f"{leaf.dtype}{[*leaf.shape]}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _go_to(data: grain.DatasetIterator, folder: AnyPath) -> None:
    """Puts an iterator where a checkpoint left it.

    All processes go through the same global batches (see `train.data.pipeline`), so that the file
    of any one serves every process, however many there are.
    """
    files = sorted(folder.glob("process_*.json"))
    if not files:
        raise UserError(f"{folder} holds no position in the data: choose another --workdir")
    data.set_state(json.loads(files[0].read_text(encoding="utf-8")))
