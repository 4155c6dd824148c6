"""What was measured of a model on this machine, and what is assumed of one that was not."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.tree.rates import Rates, independent_rates
from medusa_jax.tuning.times import Point, StepTimes

# Seconds of a step with so many rows (batch size times nodes) over those of one row; beyond, in
# proportion. Measured (docs/benchmarks.md): SmolLM2-135M on a CPU, and the shape of a 7B on an H100
# up to 64 rows; more rows there, and other accelerators, are a guess.
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PRIOR = {
    ("cpu", "float32"): (1.0, 1.3, 1.35, 1.6, 2.3, 3.8, 8.0, 15.0, 23.0),
    ("cpu", "bfloat16"): (1.0, 1.1, 1.3, 1.73, 2.25, 3.4, 5.8, 10.4, 16.7),
}
_PRIOR_ELSEWHERE = (1.0, 1.0, 1.0, 1.0, 1.0, 1.08, 1.17, 1.55, 2.2)
_PRIOR_SLOTS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Acceptance:
    """Rates of some heads' guesses.

    Attributes:
      by_temperature: at least one; 0 is greedy decoding.
    """

    by_temperature: Mapping[float, Rates]

    def at(self, temperature: float) -> Rates:
        """The rates of the nearest temperature that was measured."""
        nearest = min(self.by_temperature, key=lambda t: (abs(t - temperature), t))
        return self.by_temperature[nearest]

    def to_json(self) -> list[dict[str, Any]]:
        """JSON values for `from_json`."""
        items = sorted(self.by_temperature.items())
        return [{"temperature": t, "rates": rates.to_json()} for t, rates in items]

    @classmethod
    def from_json(cls, value: Any) -> "Acceptance":
        """Reads what `to_json` gave.

        Raises:
          UserError: it is something else.
        """
        try:
            rates = {float(x["temperature"]): Rates.from_json(x["rates"]) for x in value}
        except (TypeError, KeyError, ValueError, OverflowError):
            raise UserError("not a list of acceptance rates by temperature") from None
        if not rates or not all(0 <= t < math.inf for t in rates):
            raise UserError("not a list of acceptance rates by temperature")
        return cls(rates)


def merged(first: Acceptance | None, last: Acceptance | None) -> Acceptance | None:
    """All temperatures of both; where both have one, the last one's rates."""
    by = {t: rates for one in (first, last) if one for t, rates in one.by_temperature.items()}
    return Acceptance(by) if by else None


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What is known of a model with its heads.

    Attributes:
      acceptance: of the heads' guesses; None: never measured.
      times: of steps on this machine, in seconds, by dtype.
      fastest: dtype of the fastest decoding of one row; None: not measured.
    """

    acceptance: Acceptance | None = None
    times: Mapping[str, StepTimes] = dataclasses.field(default_factory=dict)
    fastest: str | None = None


def times_to_json(points: Sequence[Point]) -> list[list[float]]:
    """Points as lists, in the order of their fields."""
    return [list(dataclasses.astuple(point)) for point in points]


def times_from_json(value: Any) -> tuple[Point, ...]:
    """Reads what `times_to_json` gave.

    Raises:
      UserError: it is something else.
    """
    try:
        points = tuple(Point(int(b), int(n), int(s), float(t)) for b, n, s, t in value)
        if points:
            StepTimes(points)
    except (TypeError, ValueError, OverflowError):
        raise UserError("not a list of [batch, nodes, slots, seconds]") from None
    return points


def assumed_acceptance(num_heads: int) -> Rates:
    """Rates of middling heads: 2.4 tokens per step with 64 nodes and five heads, as published."""
    head_M1, rank_1K = np.arange(num_heads)[:, None], np.arange(10)[None]
    return independent_rates(0.45 * 0.93**head_M1 * 0.35**rank_1K)


def assumed_times(platform: str, dtype: str) -> StepTimes:
    """Relative step times of a kind of device: a guess to begin with."""
    curve = _PRIOR.get((platform, dtype), _PRIOR_ELSEWHERE)

    def seconds(rows: int) -> float:
        return float(np.interp(rows, _ROWS, curve)) * max(rows / _ROWS[-1], 1.0)

    grid = [(batch, nodes) for batch in _ROWS[:7] for nodes in _ROWS[:7]]
    return StepTimes(tuple(Point(b, n, _PRIOR_SLOTS, seconds(b * n)) for b, n in grid))
