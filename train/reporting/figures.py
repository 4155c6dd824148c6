"""What a report says of every run: each figure a quotient of sums over prompts."""

import dataclasses
from typing import Any, Literal

import numpy as np

from train.reporting.statistics import Estimate, Scale, draw_prompts, estimate

Prompts = dict[str, list[dict[str, Any]]]
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      name: its key in the JSON.
      title: for people.
      prompts: over which set, "conversations", "problems" or "questions".
      above: key of the prompts' rows that is added up.
      below: key of what that is divided by; None: the number of prompts.
      scale: how runs are compared.
      better: "higher" or "lower"; "" if neither is.
    """

    name: str
    title: str
    prompts: str
    above: str
    below: str | None
    scale: Scale
    better: Literal["higher", "lower", ""]

    def estimate(self, seeds: list[Prompts], run: int) -> Estimate:
        """The figure over runs of several seeds; paired with the estimates of all other runs.

        Args:
          seeds: the rows of each.
          run: a number that no other run has.
        """
        rows = [own[self.prompts] for own in seeds]
        above_SN = np.asarray([[row[self.above] for row in own] for own in rows], np.float64)
        below_SN = np.ones_like(above_SN)
        if self.below is not None:
            below_SN[:] = [[row[self.below] for row in own] for own in rows]
        drawn_RN = draw_prompts(above_SN.shape[1], _SEED)
        rng = np.random.default_rng((_SEED, run))
        return estimate(above_SN, below_SN, drawn_RN, self.scale, rng)

    def verdict(self, comparison: Estimate) -> str | None:
        """What the interval shows: "better", "worse"; "higher", "lower"; None: no difference."""
        if not comparison.direction:
            return None
        direction = "higher" if comparison.direction > 0 else "lower"
        if not self.better:
            return direction
        return "better" if direction == self.better else "worse"


FIGURES = (
    Figure("lm_loss", "held-out LM loss", "conversations", "loss", "tokens", "ratio", "lower"),
    Figure(
        "perplexity", "problems' perplexity", "problems", "loss", "tokens", "exponential", "lower"
    ),
    Figure("tokens_per_step", "tokens/step", "questions", "tokens", "steps", "ratio", "higher"),
    Figure("reply_tokens", "tokens/answer", "questions", "tokens", None, "ratio", ""),
    Figure(
        "agreement",
        "share of the original's answers until they differ",
        "questions",
        "agreed",
        "original_tokens",
        "difference",
        "higher",
    ),
    Figure(
        "identical",
        "share of answers that are the original's",
        "questions",
        "is_identical",
        None,
        "difference",
        "higher",
    ),
    Figure(
        "kl_divergence",
        "KL from the original on its answers, nats/token",
        "questions",
        "kl",
        "original_tokens",
        "difference",
        "lower",
    ),
    Figure(
        "repetition",
        "share of 4-grams that the answer had before",
        "questions",
        "repeated",
        "ngrams",
        "difference",
        "lower",
    ),
)
