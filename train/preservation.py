"""Which checkpoints of a run are kept: the last ones and the best."""

import math
from collections.abc import Mapping

from orbax.checkpoint import checkpoint_managers

SCORE = "score"  # its key in a checkpoint's metrics, see `train.ranking`


class LatestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the last checkpoints and the one with the highest score."""

    def __init__(self, num_latest: int):
        self._num_latest = num_latest

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """One answer per checkpoint, oldest first."""
        scores = [score_of(info.metrics) for info in checkpoints]
        best = scores.index(max(scores)) if scores and max(scores) > -math.inf else None
        first = len(checkpoints) - self._num_latest
        return [i >= first or i == best for i in range(len(checkpoints))]


def score_of(metrics: Mapping[str, float] | None) -> float:
    """A checkpoint's score; -inf without one, and for one that is not a number."""
    score = (metrics or {}).get(SCORE, -math.inf)
    return -math.inf if math.isnan(score) else score
