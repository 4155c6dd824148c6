"""Sums over answers: tokens, steps and seconds."""

import dataclasses
from collections.abc import Sequence

from medusa_jax import Generation


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over answers.

    Attributes:
      tokens: new tokens.
      steps: backbone passes after prefill.
      seconds: decoding, all batches.
      compile_seconds: all batches.
    """

    tokens: int
    steps: int
    seconds: float
    compile_seconds: float

    @property
    def tokens_per_step(self) -> float:
        """What one pass yields."""
        return self.tokens / max(self.steps, 1)

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.tokens / max(self.seconds, 1e-9)


def totals(results: Sequence[Generation], batch_size: int) -> Totals:
    """Sums answers that were decoded `batch_size` at a time: the rows of a batch share seconds."""
    batches = results[::batch_size]
    return Totals(
        tokens=sum(r.num_new_tokens for r in results),
        steps=sum(r.num_steps for r in results),
        seconds=sum(r.decode_seconds for r in batches),
        compile_seconds=sum(r.compile_seconds for r in batches),
    )


def closing_line(results: Sequence[Generation], batch_size: int) -> str:
    """Tokens, steps and speed of the answers together."""
    t = totals(results, batch_size)
    answers = f"{len(results)} answers, " if len(results) > 1 else ""
    compiling = (
        f", after compiling for {t.compile_seconds:.1f} s" if t.compile_seconds > 0.05 else ""
    )
    return (
        f"{answers}{t.tokens} tokens in {t.steps} steps: {t.tokens_per_step:.2f} tokens/step, "
        f"{t.tokens_per_second:.1f} tokens/s{compiling}"
    )
