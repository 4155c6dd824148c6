"""What decoding itself teaches about step times and acceptance, starting from predictions.

Both quantities are seen at every call of the decode loop, for the size that is in use; what they
say about other sizes follows from what sizes have in common.
"""

import math
from collections.abc import Mapping

import numpy as np

_CALL_NOISE = 0.06  # relative, of one call's seconds per step
_STEP_NOISE = 0.10  # and of a call of one step, in addition
_COMMON_DRIFT = 0.03  # relative per call: other programs come and go
_OWN_DRIFT = 0.005  # the context grows
_REACH = 2.0  # doublings of the tree over which errors of predicted times look alike
_LUCK = 0.045  # relative, of each size: how one process differs from the one that measured
_OUTLIER = 3.0  # standard deviations: a call that was disturbed counts no more than this


class TimeLearner:
    """Corrects predicted seconds per step: a Kalman filter on their logarithms.

    The hidden state is a factor that all sizes share (the machine is busy; predictions have no
    unit) and one of each size: an error that is smooth over the logarithm of the nodes, and its own
    luck.

    Args:
      sizes: nodes, ascending.
      doubt: relative smooth error of each prediction, as a standard deviation.
    """

    def __init__(self, sizes: tuple[int, ...], doubt: Mapping[int, float]) -> None:
        self.sizes = sizes
        sigma = np.array([doubt[n] for n in sizes])
        apart = np.abs(np.subtract.outer(np.log2(sizes), np.log2(sizes))) / _REACH
        self._mean = np.zeros(len(sizes) + 1)  # the common factor comes first
        self._cov = np.zeros((len(sizes) + 1,) * 2)
        self._cov[0, 0] = 100.0
        self._cov[1:, 1:] = np.outer(sigma, sigma) * np.exp(-(apart**2) / 2)
        # A tenth of the smooth part's variance is each size's own, too.
        self._cov[1:, 1:] += np.diag(0.1 * sigma**2 + _LUCK**2)

    def update(self, nodes: int, seconds: float, predicted: float, steps: int) -> None:
        """Learns from a call of `steps` steps of `seconds` each."""
        drift = np.full(len(self._mean), _OWN_DRIFT**2)
        drift[0] = _COMMON_DRIFT**2
        self._cov += np.diag(drift)
        at = np.zeros(len(self._mean))
        at[[0, 1 + self.sizes.index(nodes)]] = 1.0
        gain = self._cov @ at
        variance = float(at @ gain) + _noise(steps)
        surprise = math.log(seconds / predicted) - float(at @ self._mean)
        limit = _OUTLIER * math.sqrt(variance)
        self._mean += gain / variance * min(max(surprise, -limit), limit)
        self._cov -= np.outer(gain, gain) / variance

    def factor(self, nodes: int) -> float:
        """What to multiply the predicted seconds by."""
        return math.exp(self._mean[0] + self._mean[1 + self.sizes.index(nodes)])

    def lesson(self, nodes: int, other: int, steps: int) -> float:
        """How far one more call may move the ratio of two sizes' seconds.

        Args:
          nodes: size that the call would use.
          other: the other size.
          steps: of the call.

        Returns:
          Standard deviation of the change in the ratio's logarithm. It falls as sizes become known.
        """
        seen = np.zeros(len(self._mean))
        seen[[0, 1 + self.sizes.index(nodes)]] = 1.0
        ratio = np.zeros(len(self._mean))
        ratio[1 + self.sizes.index(nodes)] += 1.0
        ratio[1 + self.sizes.index(other)] -= 1.0
        variance = float(seen @ self._cov @ seen) + _COMMON_DRIFT**2 + _noise(steps)
        return abs(float(ratio @ self._cov @ seen)) / math.sqrt(variance)


def _noise(steps: int) -> float:
    """Variance of the logarithm of what a call shows."""
    return _CALL_NOISE**2 + _STEP_NOISE**2 / steps


class TokenLearner:
    """Corrects expected tokens per step, of which one is certain.

    How much easier a text is than those that were measured is common to all sizes; each size's own
    record counts for more the longer it gets. Old steps are forgotten.

    Args:
      expected: tokens per step by nodes.
      trust: how many accepted tokens the predictions are worth.
    """

    _FORGET = 0.5 ** (1 / 4000)  # per step and row
    _OWN = 100.0  # steps of one size that count as much as what all sizes say

    def __init__(self, expected: Mapping[int, float], trust: float) -> None:
        self._extra = {nodes: tokens - 1.0 for nodes, tokens in expected.items()}
        self._trust = trust
        self._seen = dict.fromkeys(expected, 0.0)
        self._steps = dict.fromkeys(expected, 0.0)

    def update(self, nodes: int, steps: float, tokens: float) -> None:
        """Learns from steps, counted over the rows that took them."""
        keep = self._FORGET**steps
        for size in self._seen:
            self._seen[size] *= keep
            self._steps[size] *= keep
        self._seen[nodes] += tokens - steps
        self._steps[nodes] += steps

    def tokens(self, nodes: int) -> float:
        """Expected per step."""
        common = self._common() * self._extra[nodes]
        own = self._OWN * common + self._seen[nodes]
        return 1.0 + max(own, 0.0) / (self._OWN + self._steps[nodes])

    def lesson(self, nodes: int, steps: float) -> float:
        """How far more steps of a size may move the common factor: standard deviation, relative."""
        before = self._trust + self._hoped()
        return math.sqrt(1 / before - 1 / (before + self._extra[nodes] * steps))

    def _common(self) -> float:
        seen = sum(self._seen.values())
        return max(self._trust + seen, 0.0) / (self._trust + self._hoped())

    def _hoped(self) -> float:
        """Accepted tokens that the predictions stood for."""
        return sum(self._extra[n] * self._steps[n] for n in self._extra)
