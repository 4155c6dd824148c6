"""Which checkpoint of a run is the best: the fastest of those that keep the model's quality.

Neither alone would do. The divergence that self-distillation holds down is 0 before the first step,
and MEDUSA-2's LM loss says nothing about the heads; the fastest step may have spoilt the model.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# Nats per token by which the base head's held-out loss may rise above its reference: 5 % of
# perplexity. A self-distilled SmolLM2 stayed at 0.01; what docs/results.md calls naive was at 0.15.
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Score:
    """What one evaluation on held-out data says.

    Attributes:
      tokens_per_step: expected when decoding with the configured tree.
      head_loss: mean over the heads.
      loss: of the base head: "lm_loss" (MEDUSA-2) or "kl" (self-distillation); None: MEDUSA-1,
        which leaves the base model as it is.
      reference: the loss that `loss` is compared with; None without one.
    """

    tokens_per_step: float
    head_loss: float
    loss: float | None
    reference: float | None

    @property
    def keeps_quality(self) -> bool:
        """Whether the base head's loss is within `TOLERANCE` of its reference."""
        if self.loss is None or self.reference is None:
            return True
        return self.loss <= self.reference + TOLERANCE

    @property
    def not_finite(self) -> str:
        """The first number that is not finite, and what it is of; "" if all are."""
        numbers = {
            "loss of the base head": self.loss,
            "loss of the heads": self.head_loss,
            "number of tokens per step": self.tokens_per_step,
            "reference loss": self.reference,
        }
        bad = (
            f"the held-out {name} is {value}"
            for name, value in numbers.items()
            if value is not None and not math.isfinite(value)
        )
        return next(bad, "")

    @property
    def rank(self) -> float:
        """Higher is better; -inf for what is not finite.

        With quality kept, the expected tokens per step, 1 or more. Where the tree drafts nothing
        they are 1 whatever the heads do, and exp(-mean head loss), below 1, decides. With quality
        lost, a number below 0: the nats by which the tolerance is exceeded.
        """
        if self.not_finite:
            return -math.inf
        if not self.keeps_quality:
            return (self.reference or 0.0) + TOLERANCE - (self.loss or 0.0)
        return self.tokens_per_step if self.tokens_per_step > 1 else math.exp(-self.head_loss)

    def notes(self) -> dict[str, float]:
        """What a checkpoint keeps of it, for `train.console.closing_lines`."""
        found = {"tokens_per_step": self.tokens_per_step, "base_loss": self.loss}
        return {name: value for name, value in found.items() if value is not None}


class Judge:
    """Scores evaluations against the model that the run started from.

    Attributes:
      reference: the base head's loss to compare with. For self-distillation 0: the divergence of a
        model from itself. For MEDUSA-2 the LM loss of the first evaluation, which is made before
        the first step. For MEDUSA-1 None.
    """

    def __init__(self, objective: str, reference: float | None = None) -> None:
        """Takes the objective of the run, and the reference if an earlier part of it noted one."""
        self._is_medusa2 = objective == "medusa2"
        self.reference = 0.0 if objective == "self_distill" else reference

    @property
    def needs_reference(self) -> bool:
        """Whether the next evaluation will be the reference."""
        return self._is_medusa2 and self.reference is None

    def score(self, report: Mapping[str, Any]) -> Score:
        """Judges the held-out means of `medusa_jax.objectives.metrics.metrics`."""
        loss = report.get("lm_loss", report.get("kl"))
        if loss is not None and self.needs_reference:
            self.reference = float(loss)
        return Score(
            float(report["accepted"]),
            float(np.mean(report["head_loss"])),
            None if loss is None else float(loss),
            self.reference,
        )
