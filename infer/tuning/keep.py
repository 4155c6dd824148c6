"""What `infer.tune` has measured, kept in the user's cache folder as soon as it is there."""

from pathlib import Path
from typing import Any

import numpy as np

from medusa_jax.io.measurements import (
    acceptance_beside,
    acceptance_file,
    read_acceptance,
    read_content,
    times_file,
    write_content,
)
from medusa_jax.tuning.measured import (
    Acceptance,
    Measured,
    merged,
    times_from_json,
    times_to_json,
)
from medusa_jax.tuning.times import Point, StepTimes


class Kept:
    """The two files of a model with its heads on a device; see `medusa_jax.io.measurements`.

    What is not complete yet is kept apart, under "partial", so that nobody decides by it.

    Attributes:
      acceptance: what is known of it, also from the file beside the heads; None: nothing.
      overwrite: everything is measured anew.
    """

    def __init__(self, model: Path, heads: Path, device: Any, *, overwrite: bool):
        """Reads what there is.

        Args:
          model: folder or file.
          heads: folder or file.
          device: the one that decodes.
          overwrite: take over only what came with the heads; what the files have stays there until
            its successor is complete.

        Raises:
          UserError: a file is damaged.
        """
        self._acceptance_file = acceptance_file(model, heads)
        self._times_file = times_file(model, heads, device)
        self.overwrite = overwrite
        self._beside = acceptance_beside(heads)
        own = None if overwrite else read_acceptance(self._acceptance_file)
        self.acceptance = merged(self._beside, own)
        self._acceptance: dict[str, Any] = read_content(self._acceptance_file) or {}
        self._times: dict[str, Any] = read_content(self._times_file) or {}
        if overwrite:
            self._acceptance["partial"] = {}

    def partial(self, key: str) -> dict[int, np.ndarray]:
        """Ranks that an interrupted run of the same measurement has kept, by prompt."""
        own = self._acceptance.get("partial", {}).get(key, {})
        return {int(index): np.array(ranks, np.int64) for index, ranks in own.items()}

    def add_ranks(self, key: str, index: int, rank_TM: np.ndarray) -> None:
        """Keeps a prompt's ranks.

        Raises:
          UserError: the file cannot be written.
        """
        partial = self._acceptance.setdefault("partial", {}).setdefault(key, {})
        partial[str(index)] = rank_TM.tolist()
        write_content(self._acceptance_file, self._acceptance)

    def set_acceptance(self, acceptance: Acceptance) -> None:
        """Keeps what follows from all ranks, and drops the ranks.

        Args:
          acceptance: all that is known from now on; what came with the heads stays beside them.

        Raises:
          UserError: the file cannot be written.
        """
        beside = self._beside.by_temperature if self._beside else {}
        rates = {t: r for t, r in acceptance.by_temperature.items() if beside.get(t) is not r}
        others = None if self.overwrite else read_acceptance(self._acceptance_file)
        # Another run may have written meanwhile.
        rates = {**(others.by_temperature if others else {}), **rates}
        self.acceptance = acceptance
        content = {"acceptance": Acceptance(rates).to_json()}
        self._acceptance = content if rates else {}
        if rates or self._acceptance_file.exists():
            write_content(self._acceptance_file, self._acceptance)

    def begin_times(self, dtype: str) -> None:
        """Goes on with the step times that a dtype has, or begins anew."""
        if self.overwrite:
            self._times.setdefault("partial", {})[dtype] = []

    def points(self, dtype: str) -> tuple[Point, ...]:
        """Step times that are known, those of an interrupted run included."""
        complete = self._times.get("times", {}).get(dtype, [])
        return times_from_json(self._times.get("partial", {}).get(dtype, complete))

    def add_point(self, dtype: str, point: Point) -> None:
        """Keeps a step time, which counts once `complete_times` says so.

        Raises:
          UserError: the file cannot be written.
        """
        points = times_to_json((*self.points(dtype), point))
        self._times.setdefault("partial", {})[dtype] = points
        write_content(self._times_file, self._times)

    def complete_times(self, dtype: str) -> None:
        """From now on trees are chosen by these points.

        Raises:
          UserError: the file cannot be written.
        """
        points = times_to_json(self.points(dtype))
        self._times.setdefault("times", {})[dtype] = points
        self._times.setdefault("partial", {}).pop(dtype, None)
        write_content(self._times_file, self._times)

    def measured(self) -> Measured:
        """All that is complete."""
        points = {d: times_from_json(own) for d, own in self._times.get("times", {}).items()}
        return Measured(self.acceptance, {d: StepTimes(own) for d, own in points.items() if own})

    def set_fastest(self, dtype: str) -> None:
        """Keeps which dtype decodes fastest here.

        Raises:
          UserError: the file cannot be written.
        """
        self._times["fastest"] = dtype
        write_content(self._times_file, self._times)
