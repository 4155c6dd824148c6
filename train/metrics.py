"""What a run reports: a JSON line and TensorBoard points per logged step, by one process."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_text

Row = dict[str, Any]


class MetricsWriter:
    """Appends to `metrics.jsonl` and `tensorboard/` in a working folder.

    Only process 0 writes; elsewhere every method does nothing. Floats are written with as many
    digits as tell one float32 from the next; numbers that JSON does not know become "nan", "inf"
    or "-inf", which Python's float() reads.
    """

    def __init__(self, workdir: str | Path, *, process_index: int) -> None:
        self._active = process_index == 0
        self._folder = Path(workdir)
        self._path = self._folder / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._purge_step: int | None = None

    def truncate(self, step: int) -> None:
        """Removes what an earlier run reported for steps from `step` on, and a half-written line.

        To be called before the first `write` of every run, resumed or not.

        Args:
          step: the first that will be run; a checkpoint of step s is followed by s + 1.
        """
        self.close()
        self._purge_step = step  # TensorBoard hides older points from there on
        if not self._active or not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
        kept = [line + "\n" for line in lines if _is_before(line, step)]
        write_text(self._path, "".join(kept))

    def write(self, row: Row) -> None:
        """Reports a step.

        Args:
          row: "step", and by name numbers, arrays or lists of numbers (one per head), or texts;
            None is written as null.

        Raises:
          UserError: the disk is full, or the folder is gone.
        """
        if not self._active:
            return
        if self._board is None:
            self._board = self._open_board()
        plain = {name: _plain(value) for name, value in row.items()}
        valid = {name: _valid(value) for name, value in plain.items()}
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(valid, allow_nan=False) + "\n")
            for name, value in plain.items():
                if name != "step":
                    self._plot(name, value, plain["step"])
        except OSError as error:
            raise UserError(
                f"cannot write to {self._folder} ({error.strerror}): mend that, then rerun the "
                "same command to resume from the last checkpoint"
            ) from error

    def flush(self) -> None:
        """Hands TensorBoard's points to the operating system, which gets lines at once."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Ends TensorBoard's file; a later `write` begins another."""
        if self._board is not None:
            self._board.close()
        self._board = None

    def _open_board(self) -> SummaryWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = str(self._folder / "tensorboard")
        return SummaryWriter(folder, purge_step=self._purge_step, flush_secs=10)

    def _plot(self, name: str, value: Any, step: int) -> None:
        if isinstance(value, list):
            for number, item in enumerate(value, 1):
                self._plot(f"{name}/{number}", item, step)
        elif isinstance(value, int | float) and self._board is not None:
            self._board.add_scalar(name, value, step)


def _plain(value: Any) -> Any:
    """Numbers and arrays as Python's own, floats with the digits of a float32."""
    if value is None or isinstance(value, str | bool | int):
        return value
    array = np.asarray(value)
    if array.ndim:
        return [_plain(item) for item in array.tolist()]
    if np.issubdtype(array.dtype, np.integer):
        return int(array)
    number = float(array)
    return float(str(np.float32(number))) if abs(number) < 1e38 else number


def _valid(value: Any) -> Any:
    """The value with texts in place of what JSON cannot hold."""
    if isinstance(value, list):
        return [_valid(item) for item in value]
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else str(value)


def _is_before(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] < step
    except (ValueError, KeyError, TypeError):  # a line that a kill cut short
        return False
