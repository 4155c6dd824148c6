"""What `infer.tune` has measured, kept in the user's cache folder as soon as it is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medusa_jax.io.measurements import (
    acceptance_file,
    read_content,
    read_measured,
    times_file,
    write_content,
)
from medusa_jax.tuning.measured import Acceptance, times_from_json, times_to_json
from medusa_jax.tuning.times import Point


class Kept:
    """The two files of a model with its heads on a device; see `medusa_jax.io.measurements`.

    Attributes:
      acceptance: that is known, also from beside the heads; None: none.
    """

    def __init__(self, model: Path, heads: Path, device: Any, *, overwrite: bool):
        """Reads what there is.

        Args:
          model: folder or file.
          heads: folder or file.
          device: that decodes.
          overwrite: take nothing over.

        Raises:
          UserError: a file is damaged.
        """
        self._acceptance_file = acceptance_file(model, heads)
        self._times_file = times_file(model, heads, device)
        self.acceptance = None if overwrite else read_measured(model, heads, device).acceptance
        self._acceptance: dict[str, Any] = {}
        self._times: dict[str, Any] = {}
        if not overwrite:
            self._acceptance = read_content(self._acceptance_file) or {}
            self._times = read_content(self._times_file) or {}

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
        self._write_acceptance()

    def set_acceptance(self, acceptance: Acceptance) -> None:
        """Keeps what follows from all ranks, which are dropped.

        Raises:
          UserError: the file cannot be written.
        """
        self.acceptance = acceptance
        self._acceptance = {"acceptance": acceptance.to_json()}
        self._write_acceptance()

    def points(self, dtype: str) -> tuple[Point, ...]:
        """Step times that are known."""
        return times_from_json(self._times.get("times", {}).get(dtype, []))

    def add_point(self, dtype: str, point: Point) -> None:
        """Keeps a step time.

        Raises:
          UserError: the file cannot be written.
        """
        points: Sequence[Point] = (*self.points(dtype), point)
        self._times.setdefault("times", {})[dtype] = times_to_json(points)
        write_content(self._times_file, self._times)

    def set_fastest(self, dtype: str) -> None:
        """Keeps which dtype decodes fastest here.

        Raises:
          UserError: the file cannot be written.
        """
        self._times["fastest"] = dtype
        write_content(self._times_file, self._times)

    def _write_acceptance(self) -> None:
        known = {} if self.acceptance is None else {"acceptance": self.acceptance.to_json()}
        write_content(self._acceptance_file, known | self._acceptance)
