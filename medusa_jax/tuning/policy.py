"""Chooses the tree while decoding goes on: before each call, from what is known by then."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from medusa_jax.tuning.choose import Outlook, best_size
from medusa_jax.tuning.learner import TimeLearner, TokenLearner

_HYSTERESIS = 0.02  # gains below are noise
_TRY_STEPS = 6


@dataclasses.dataclass(frozen=True)
class Belief:
    """What is known before decoding starts.

    Attributes:
      tokens: expected per step, by nodes; 1 for plain decoding, which is among them.
      trust: how many accepted tokens these expectations are worth.
      doubt: relative error of the predicted seconds, by nodes, apart from each program's luck.
      source: "measured" or "estimated".
    """

    tokens: Mapping[int, float]
    trust: float
    doubt: Mapping[int, float]
    source: str


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the next call should do.

    Attributes:
      nodes: of the tree.
      steps: at most so many, after which another decision is wanted; None: as many as suits.
    """

    nodes: int
    steps: int | None = None


class Policy:
    """Learns from every call, and says with which size the next one should decode.

    A size is left for one that finishes the remaining work sooner, compiling included. Another size
    is tried for a few steps when the time that it is expected to save, if it turns out to be the
    better one, exceeds what the trial costs.

    Args:
      belief: what is known.
    """

    def __init__(self, belief: Belief) -> None:
        self.belief = belief
        self.sizes = tuple(sorted(belief.tokens))
        self._times = TimeLearner(self.sizes, belief.doubt)
        self._tokens = TokenLearner(belief.tokens, belief.trust)
        self._observed = False

    def outlooks(self, predicted: Mapping[int, float]) -> dict[int, Outlook]:
        """What each size promises, given its predicted seconds per step before any correction."""
        return {
            n: Outlook(self._tokens.tokens(n), self._times.factor(n) * predicted[n])
            for n in self.sizes
        }

    def observe(
        self, nodes: int, seconds: float, steps: int, row_steps: int, tokens: int, predicted: float
    ) -> None:
        """Learns from a call of the decode loop.

        Args:
          nodes: of the tree that it used.
          seconds: how long it took, without compiling; above 0.
          steps: of the loop, at least 1.
          row_steps: steps summed over the rows that were not done.
          tokens: emitted by all rows.
          predicted: seconds of a step, before any correction.
        """
        self._times.update(nodes, seconds / steps, predicted, steps)
        self._tokens.update(nodes, row_steps, tokens)
        self._observed = True

    def decide(
        self,
        predicted: Mapping[int, float],
        *,
        remaining: float,
        current: int | None = None,
        ready: Collection[int] = (),
        compile_seconds: float = 0.0,
    ) -> Decision:
        """The size for the next call.

        Args:
          predicted: seconds per step by nodes, before any correction.
          remaining: tokens per row that are still to come.
          current: size that decodes now; None: nothing has begun.
          ready: sizes whose programs are compiled.
          compile_seconds: what another size would cost first.
        """
        now = self.outlooks(predicted)
        cost = {"ready": ready, "compile_seconds": compile_seconds, "current": current}
        best = best_size(now, remaining=remaining, **cost)
        if current is not None and now[best].speed < (1 + _HYSTERESIS) * now[current].speed:
            best = current
        if self._observed:  # before, even the unit of the predictions may be unknown
            worth = {n: self._worth(now, n, best, remaining, cost) for n in self.sizes if n != best}
            trial = max(worth, key=lambda n: worth[n], default=best)
            if worth.get(trial, 0.0) > 0:
                return Decision(trial, _TRY_STEPS)
        return Decision(best)

    def _worth(
        self, now: Mapping[int, Outlook], nodes: int, best: int, remaining: float, cost: Any
    ) -> float:
        """Seconds that trying a size is expected to save, less those that it costs."""
        ahead = math.log(now[nodes].speed / now[best].speed)
        easier = (now[nodes].tokens - now[best].tokens) / now[nodes].tokens
        of_time = self._times.lesson(nodes, best, _TRY_STEPS)
        lesson = math.hypot(of_time, self._tokens.lesson(nodes, _TRY_STEPS) * easier)
        saved = remaining / now[best].speed * _expected_saving(ahead, lesson)
        price = _TRY_STEPS * now[nodes].seconds * max(1 - math.exp(ahead), 0.0)
        price += 2 * now[best].seconds * (1 - 1 / now[best].tokens)  # two drafts lost
        return saved - price - (0.0 if nodes in cost["ready"] else cost["compile_seconds"])


def _expected_saving(mean: float, sigma: float) -> float:
    """E[max(0, 1 - exp(-x))] of a normal x: the share of time that a faster size saves."""
    if sigma < 1e-9:
        return max(1 - math.exp(-mean), 0.0)
    bettered = _normal_cdf(mean / sigma)
    return bettered - math.exp(sigma**2 / 2 - mean) * _normal_cdf(mean / sigma - sigma)


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
