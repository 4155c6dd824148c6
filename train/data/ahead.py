"""Batches on the devices before they are needed."""

import collections
from collections.abc import Callable
from typing import Any

import grain

BATCHES = 2


class Ahead(grain.DatasetIterator):
    """Another iterator's batches, made while the devices are busy with earlier ones.

    Its position counts only the batches that it has handed out: those made ahead are made again
    after a restart.
    """

    def __init__(self, source: grain.DatasetIterator, place: Callable[[Any], Any]) -> None:
        """Makes nothing yet.

        Args:
          source: of the batches; nobody else may advance it.
          place: puts a batch on the devices, without waiting for them.
        """
        super().__init__()
        self._source, self._place = source, place
        self._made: collections.deque[tuple[dict[str, Any], Any]] = collections.deque()

    def fill(self, count: int = BATCHES) -> None:
        """Makes batches until `count` of them are waiting."""
        while len(self._made) < count:
            position = self._source.get_state()
            self._made.append((position, self._place(next(self._source))))

    def __next__(self) -> Any:
        self.fill(1)
        return self._made.popleft()[1]

    def get_state(self) -> dict[str, Any]:
        """Where the source was before it made the batch that comes next."""
        return self._made[0][0] if self._made else self._source.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position; what was made ahead is forgotten."""
        self._made.clear()
        self._source.set_state(state)
