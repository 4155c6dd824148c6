"""How long a decoding step takes on a machine: from measured points to any size."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """One measurement.

    Attributes:
      batch: rows decoded at once.
      nodes: R of the tree, 1 for plain decoding.
      slots: of the cache per row, all of which attention reads.
      seconds: of a step.
    """

    batch: int
    nodes: int
    slots: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds per step by batch, nodes and slots, between and beyond measured points.

    The points of the fewest slots make one curve over the nodes for every batch size. Larger trees
    and batches never take less time than smaller ones, whatever noise says: curves are averaged
    where they fall (isotonic regression). What more slots cost is fitted to the other points of a
    batch size as slots * (u + v * nodes): keys and values are read once, and used once per node.
    Between batch sizes this cost is interpolated, and below and beyond it is in proportion.

    Attributes:
      points: at least one; units may be relative, as only ratios decide.
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if not self.points or any(_is_bad(point) for point in self.points):
            raise ValueError("step times need points, of sizes of at least 1 and seconds above 0")

    def seconds(self, nodes: int, batch: int, slots: int) -> float:
        """Predicted seconds of a step.

        Beyond the largest measured tree or batch time is taken to grow in proportion, which no
        machine exceeds by much: what was not measured shall not look better than it may be.
        """
        base = self._base_seconds(nodes, batch)
        extra = (slots - self._base_slots) * self._slot_seconds(nodes, batch)
        return max(base + extra, 0.1 * base)

    def is_measured(self, nodes: int, batch: int) -> bool:
        """Whether a prediction lies between measured points."""
        batches = list(self._curves)
        if not batches[0] <= batch <= batches[-1]:
            return False
        around = _neighbours(batches, batch)
        return all(nodes <= self._curves[b][0][-1] for b in around)

    def sizes(self, batch: int) -> set[int]:
        """Nodes of the trees that were measured with the batch sizes around this one.

        Between two of them a step can take longer than at both: some numbers of rows suit hardware.
        """
        around = _neighbours(list(self._curves), batch)
        return set.intersection(*({int(n) for n in self._curves[b][0]} for b in around))

    @functools.cached_property
    def _base_slots(self) -> int:
        return min(point.slots for point in self.points)

    @functools.cached_property
    def _curves(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By batch size, the smallest first: nodes, and seconds that do not fall."""
        base = [p for p in self.points if p.slots == self._base_slots]
        curves: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for batch in sorted({point.batch for point in base}):
            own = [p for p in base if p.batch == batch]
            nodes = sorted({p.nodes for p in own})
            seconds = [np.median([p.seconds for p in own if p.nodes == n]) for n in nodes]
            curves[batch] = np.array(nodes, float), rising_fit(seconds)
        return curves

    def _base_seconds(self, nodes: int, batch: int) -> float:
        low, high = _neighbours(list(self._curves), batch)
        if batch > high:
            return self._at(high, nodes) * batch / high
        share = 0.0 if high == low else (batch - low) / (high - low)
        return (1 - share) * self._at(low, nodes) + share * self._at(high, nodes)

    def _at(self, batch: int, nodes: int) -> float:
        """Seconds at a measured batch size: at least a smaller one's, at most a larger one's.

        `infer.tune` leaves out trees that cannot pay with a batch but may with another. So beyond a
        curve's end its last time is all that it says of larger batches, and what a larger batch
        took there bounds its own.
        """
        ends = {b: min(nodes, int(curve[0][-1])) for b, curve in self._curves.items() if b < batch}
        smaller = [_on_curve(*self._curves[b], end) for b, end in ends.items()]
        seconds = max([_on_curve(*self._curves[batch], nodes), *smaller])
        larger = [b for b in self._curves if b > batch]
        if larger and nodes > self._curves[batch][0][-1]:
            return min(seconds, self._at(larger[0], nodes))
        return seconds

    def _slot_seconds(self, nodes: int, batch: int) -> float:
        """Seconds of one more slot in every row; a larger batch never takes less."""
        if not self._slot_costs:
            return 0.0
        batches = [0, *self._slot_costs]
        costs = self._slot_costs.values()
        seconds = [0.0, *(per_slot + per_node * nodes for per_node, per_slot in costs)]
        rising = np.maximum.accumulate(seconds)
        return float(np.interp(batch, batches, rising)) * max(batch / batches[-1], 1.0)

    @functools.cached_property
    def _slot_costs(self) -> dict[int, tuple[float, float]]:
        """Seconds per slot: for each node, and whatever the tree; by batch size, rising."""
        points = [p for p in self.points if p.slots != self._base_slots]
        costs = {}
        for batch in sorted({p.batch for p in points}):
            own = [p for p in points if p.batch == batch]
            more = np.array([p.slots - self._base_slots for p in own], float)
            seconds = np.array([p.seconds for p in own])
            base = np.array([self._base_seconds(p.nodes, batch) for p in own])
            rows = np.stack([more * [p.nodes for p in own], more], axis=1)
            # Relative errors count.
            costs[batch] = _least_squares(rows / seconds[:, None], (seconds - base) / seconds)
        return costs


def rising_fit(values: Iterable[float]) -> np.ndarray:
    """The nearest sequence (least squares) that never falls: pool adjacent violators."""
    pools: list[list[float]] = []  # mean, count
    for value in values:
        pools.append([float(value), 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    return np.concatenate([np.full(int(count), mean) for mean, count in pools])


def _is_bad(point: Point) -> bool:
    sizes = (point.batch, point.nodes, point.slots)
    return min(sizes) < 1 or not 0 < point.seconds < float("inf")


def _neighbours(sizes: Sequence[int], size: int) -> tuple[int, int]:
    """The measured sizes around one; beyond the ends, the end twice."""
    low = max((s for s in sizes if s <= size), default=sizes[0])
    return low, min((s for s in sizes if s >= size), default=sizes[-1])


def _on_curve(nodes: np.ndarray, seconds: np.ndarray, wanted: int) -> float:
    """Linear between points, in proportion beyond the last, flat before the first."""
    return float(np.interp(wanted, nodes, seconds)) * max(wanted / nodes[-1], 1.0)


def _least_squares(rows: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Two factors, neither negative."""
    both = np.linalg.lstsq(rows, values, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    singles = [(row @ values / (row @ row) if row.any() else 0.0) for row in rows.T]
    errors = [((values - row * x) ** 2).sum() for row, x in zip(rows.T, singles, strict=True)]
    best = int(np.argmin(errors))
    factors = [0.0, 0.0]
    factors[best] = max(float(singles[best]), 0.0)
    return factors[0], factors[1]
