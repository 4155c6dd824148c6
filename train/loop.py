"""The training loop: batches in; parameters, checkpoints and metrics out."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from medusa_jax.errors import UserError
from medusa_jax.sharding import replicated
from medusa_jax.tree.build import Tree
from train.checkpoints import Checkpoints
from train.console import progress
from train.data.ahead import Ahead
from train.data.inputs import Data
from train.distributed import global_batch, is_first_process
from train.flops import device_memory_bytes, flops_per_token, mfu
from train.folder import Folder
from train.held_out import HeldOut
from train.interrupt import Interrupt
from train.metrics import MetricsWriter
from train.optimizer import learning_rate_schedule
from train.ranking import Judge, Score
from train.settings import Settings
from train.setup import Experiment, abstract_state, compiled_update


@dataclasses.dataclass
class _Window:
    """What happened since the last logged step."""

    start: float = dataclasses.field(default_factory=lambda: time.perf_counter())
    end: float = 0.0  # of its last step, before evaluating and saving it
    waited: float = 0.0
    steps: int = 0
    worst: float = -math.inf


@dataclasses.dataclass
class _Running:
    """A step that the devices have been given.

    Attributes:
      step: its number.
      position: in the data, before its batch.
      report: its metrics, on the devices.
      is_settled: whether its result has been looked at.
    """

    step: int
    position: dict[str, Any]
    report: dict[str, jax.Array]
    is_settled: bool = False


class Loop:
    """One run in a working folder, resumed from its last checkpoint if there is one."""

    def __init__(
        self,
        settings: Settings,
        experiment: Experiment,
        data: Data,
        tree: Tree,
        mesh: Mesh,
        checkpoints: Checkpoints,
        folder: Folder,
    ) -> None:
        self._settings, self._experiment = settings, experiment
        self._batches = Ahead(data.train, functools.partial(global_batch, mesh))
        self._tree, self._mesh = tree, mesh
        self._checkpoints, self._folder = checkpoints, folder
        self._tokens = settings.batch_size * settings.seq_len
        self._traces = False
        self._writer = MetricsWriter(folder.local, process_index=jax.process_index())
        self._update = compiled_update(experiment, mesh)
        self._proceed = jax.device_put(np.asarray(True), replicated(mesh))
        self._held_out = HeldOut(experiment, data.held_out, tree, mesh)
        latest = checkpoints.latest
        reference = None if latest is None else checkpoints.metrics(latest).get("reference")
        self._judge = Judge(settings.objective, reference)
        self._schedule = learning_rate_schedule(
            settings.learning_rate, settings.warmup_steps, settings.num_steps
        )
        self._flops = self._tokens * flops_per_token(
            experiment.step.objective.llama, experiment.heads, settings.seq_len, experiment.work
        )

    def run(self) -> dict[str, Any] | None:
        """Trains to the last step.

        Returns:
          The trained parameters; None if SIGTERM stopped the run earlier, with its state saved.

        Raises:
          UserError: the loss or a gradient is not finite any more.
          KeyboardInterrupt: Ctrl-C; the state has been saved.
        """
        state, first = self._start()
        step = first
        self._writer.truncate(first + 1)
        bar = progress(self._settings.num_steps, self._settings.objective, first)
        with contextlib.closing(self), Interrupt() as interrupt, bar as advance:
            if self._judge.needs_reference and first == 0:
                advance(0, {}, self._score(0, state)[1])
            window, running = _Window(), None
            for step in range(first + 1, self._settings.num_steps + 1):
                with self._profile(step):
                    state, running = self._launch(step, state, running, window)
                    if step == first + 1 or self._is_looked_at(step):
                        self._settle(running, state, window)
                score, held_out = self._score(step, state)
                row = {}
                if held_out or self._is_due(self._settings.log_every, step):
                    row = self._row(step, running.report, window)
                    self._writer.write(row | {f"held_out/{k}": v for k, v in held_out.items()})
                    window = _Window()
                elif step == first + 1:
                    window = _Window(worst=window.worst)  # compiling does not count
                advance(step, row, held_out)
                last = interrupt.reached(step) or step == self._settings.num_steps
                if last:
                    self._settle(running, state, window)
                force = last or self._checkpoints.is_best(score and score.rank)
                begin = time.perf_counter()
                self._save(step, state, score, force=force)
                window.start += time.perf_counter() - begin  # saving does not count either
                if last:
                    break
        self._checkpoints.wait()
        return state["params"] if step == self._settings.num_steps else None

    def close(self) -> None:
        """Ends the trace and the log, also of a run that Ctrl-C stops."""
        self._stop_trace()
        self._writer.close()

    def _start(self) -> tuple[Any, int]:
        """The state to start from, and the last step that it has seen."""
        latest = self._checkpoints.latest
        if latest is None:
            return self._experiment.state, 0
        wanted = abstract_state(self._experiment.state)
        for array in jax.tree.leaves(self._experiment.state):
            array.delete()  # two states may not fit into the devices' memory
        return self._checkpoints.restore(wanted, self._batches), latest

    def _save(
        self, step: int, state: Any, score: Score | None = None, *, force: bool = False
    ) -> None:
        """Saves a step that is due, as every new best is, after what was reported up to it."""
        if self._checkpoints.is_due(step, force=force):
            self._writer.flush()
            self._folder.upload()
            notes = {} if self._judge.reference is None else {"reference": self._judge.reference}
            notes |= score.notes() if score else {}
            rank = score.rank if score else None
            self._checkpoints.save(step, state, self._batches, score=rank, notes=notes, force=force)

    def _next_batch(self, window: _Window) -> Any:
        start = time.perf_counter()
        batch = next(self._batches)
        window.waited += time.perf_counter() - start
        return batch

    def _launch(
        self, step: int, state: Any, before: _Running | None, window: _Window
    ) -> tuple[Any, _Running]:
        """Gives the devices a step, and only then looks at the one before."""
        position = self._batches.get_state()
        batch = self._next_batch(window)
        proceed = self._proceed if before is None else before.report["is_good"]
        state, report = self._update(state, self._experiment.frozen, batch, self._tree, proceed)
        self._batches.fill()
        self._settle(before, state, window)
        return state, _Running(step, position, report)

    def _is_looked_at(self, step: int) -> bool:
        """Whether somebody wants to see this step before the next one begins."""
        settings = self._settings
        return (
            self._is_due(settings.log_every, step)
            or self._is_due(settings.eval_every, step)
            or self._checkpoints.is_due(step)
            or step == (settings.profile_steps or (0, 0))[1]
        )

    def _settle(self, running: _Running | None, state: Any, window: _Window) -> None:
        """Waits for a step, once, and keeps the worst loss.

        Args:
          running: the step; None: there is none.
          state: that after it, or after a later one, which did nothing if this one failed.
          window: of the log.

        Raises:
          UserError: its loss or a gradient is not finite; then nothing has changed since.
        """
        if running is None or running.is_settled:
            return
        running.is_settled = True
        norms = {k: v for k, v in running.report.items() if k.startswith("grad_norm/")}
        values = jax.device_get({"loss": running.report["loss"]} | norms)
        window.end = time.perf_counter()
        window.worst = max(window.worst, float(values["loss"]))
        window.steps += 1
        bad = (f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
        if problem := next(bad, ""):
            self._batches.set_state(running.position)
            if running.step > 1:
                self._save(running.step - 1, state, force=True)
            self._stop(running.step, problem)

    def _stop(self, step: int, bad: str) -> NoReturn:
        self._checkpoints.wait()
        last = self._checkpoints.latest
        kept = "there is no checkpoint yet" if last is None else f"checkpoint {last} is kept"
        mend = "check the data, or lower config.learning_rate in another --workdir"
        if step == 0:  # nothing has been trained yet
            mend = "check config.model, config.medusa and the data"
        raise UserError(f"{bad} at step {step}: {mend}; {kept}")

    def _row(self, step: int, report: dict[str, jax.Array], window: _Window) -> dict[str, Any]:
        settings = self._settings
        seconds = max(window.end - window.start, 1e-9) / window.steps
        speed = self._tokens / seconds
        rate = np.asarray(self._schedule(step - 1)).item()
        row = {"step": step} | jax.device_get(report)
        del row["is_good"]
        row |= {
            "loss_max": window.worst,
            "learning_rate": rate,
            "learning_rate_heads": rate * settings.head_lr_multiplier,
            "tokens_per_second": speed,
            "tokens_per_second_per_device": speed / self._mesh.size,
            "seconds_per_step": seconds,
            "input_wait_seconds": window.waited / window.steps,
        }
        utilisation = mfu(self._flops / self._mesh.size, seconds, jax.devices()[0])
        memory = device_memory_bytes()
        optional = {"mfu": utilisation, "device_memory_bytes": memory}
        return row | {name: value for name, value in optional.items() if value is not None}

    def _score(self, step: int, state: Any) -> tuple[Score | None, dict[str, Any]]:
        """When an evaluation is due: its score, and what it has measured."""
        if not (self._held_out and self._is_due(self._settings.eval_every, step)):
            return None, {}
        report = self._held_out.report(state["params"])
        score = self._judge.score(report)
        if score.not_finite:
            self._stop(step, score.not_finite)
        return score, report

    def _is_due(self, every: int, step: int) -> bool:
        return step % every == 0 or step == self._settings.num_steps

    @contextlib.contextmanager
    def _profile(self, step: int) -> Iterator[None]:
        """Traces the configured steps into `profile/` of the working folder."""
        first, last = self._settings.profile_steps or (0, 0)
        if step == first and is_first_process():
            jax.profiler.start_trace(str(self._folder.local / "profile"))
            self._traces = True
        yield
        if step == last:
            self._stop_trace()

    def _stop_trace(self) -> None:
        if self._traces:  # not if the run was resumed after the first step
            jax.profiler.stop_trace()
            self._traces = False
