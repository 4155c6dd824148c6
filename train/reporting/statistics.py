"""How sure a figure is: bootstrap intervals over prompts and seeds, and paired comparisons.

Every figure here is a quotient of two sums over prompts, such as all tokens by all steps. What
other prompts would have given is estimated by drawing as many prompts as there are, with
replacement, a number of times (the percentile bootstrap); with fewer than some twenty prompts such
intervals are too narrow. Figures that share their draws are paired: what makes a prompt easy or
hard for both of them cancels in their comparison.

Seeds are too few for that: draws of three seeds never leave the range of the three, which misses
the mean of all seeds one time in four. Their mean is taken to be normal, so that it is off by the
standard error times a Student t with S - 1 degrees of freedom, and every draw has a t of its own.
Example: with prompts that do not matter, three seeds give the mean +- 4.30 standard errors.
"""

import dataclasses
from typing import Literal

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95

# What is averaged and compared: a quotient's logarithm ("ratio": figures are compared by division);
# the quotient, of which the figure is the exponential ("exponential": likewise, a perplexity); or
# the quotient itself ("difference").
Scale = Literal["ratio", "exponential", "difference"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure, or the comparison of two.

    Attributes:
      scale: see `Scale`.
      mean: over the seeds, on the scale.
      draw_R: float64, what the mean might have been.
    """

    scale: Scale
    mean: float
    draw_R: np.ndarray

    @property
    def value(self) -> float:
        """As a reader wants it. Seeds that are compared by ratio have their geometric mean."""
        return float(self._shown(np.float64(self.mean)))

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval."""
        tail = (1 - CONFIDENCE) / 2
        low, high = self._shown(np.quantile(self.draw_R, [tail, 1 - tail]))
        return float(low), float(high)

    @property
    def direction(self) -> int:
        """1 or -1 if a comparison's interval is all above or below no difference, else 0."""
        neutral = float(self._shown(np.float64(0.0)))
        low, high = self.interval
        return int(low > neutral) - int(high < neutral)

    def versus(self, reference: "Estimate") -> "Estimate":
        """This figure over, or minus, that of a reference; paired if they share `draw_prompts`."""
        draw_R = self.draw_R - reference.draw_R
        return Estimate(self.scale, self.mean - reference.mean, draw_R)

    def _shown(self, x: np.ndarray | np.float64) -> np.ndarray:
        return np.asarray(x if self.scale == "difference" else np.exp(x))


def draw_prompts(num: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of N prompts is drawn, int64 [R, N]; the rows sum to N."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num, np.full(num, 1 / num), size=resamples)


def estimate(
    above_SN: np.ndarray,
    below_SN: np.ndarray,
    drawn_RN: np.ndarray,
    scale: Scale,
    rng: np.random.Generator,
) -> Estimate:
    """The figure sum(above) / sum(below).

    Args:
      above_SN: for every seed and prompt.
      below_SN: 0 or more. A figure with nothing below is 0; it cannot be a "ratio".
      drawn_RN: from `draw_prompts`; the same for figures that are to be compared.
      scale: see `Scale`.
      rng: for the seeds' draws; every run has one of its own, as its seeds are its own.
    """
    theta_S = _theta(above_SN.sum(1), below_SN.sum(1), scale)
    theta_RS = _theta(drawn_RN @ above_SN.T, drawn_RN @ below_SN.T, scale)
    draw_R = theta_RS.mean(1)
    if (seeds := len(theta_S)) > 1:
        error = theta_S.std(ddof=1) / np.sqrt(seeds)
        draw_R = draw_R + error * rng.standard_t(seeds - 1, len(draw_R))
    return Estimate(scale, float(theta_S.mean()), draw_R)


def _theta(above: np.ndarray, below: np.ndarray, scale: Scale) -> np.ndarray:
    quotient = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    return np.log(quotient) if scale == "ratio" else quotient
