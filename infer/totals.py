"""Sums over answers: tokens, steps and seconds."""

import dataclasses
from collections.abc import Sequence

from medusa_jax import Generation
from medusa_jax.decoding.runtime import Clock


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over answers.

    Attributes:
      answers: how many.
      tokens: new tokens.
      steps: backbone passes after prefill.
      seconds: decoding.
      compile_seconds: not included in `seconds`.
    """

    answers: int
    tokens: int
    steps: int
    seconds: float
    compile_seconds: float

    @property
    def tokens_per_step(self) -> float:
        """Tokens that one pass yields."""
        return self.tokens / max(self.steps, 1)

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.tokens / max(self.seconds, 1e-9)

    def rates(self) -> str:
        """Tokens per step and per second in words."""
        return f"{self.tokens_per_step:.2f} tokens/step, {self.tokens_per_second:.1f} tokens/s"


def totals(results: Sequence[Generation], clock: Clock | None = None) -> Totals:
    """Sums answers.

    Args:
      results: the answers.
      clock: seconds that all of them took; None: they were decoded one after the other, so that
        their own add up.
    """
    if clock is None:
        clock = Clock(
            compile=sum(result.compile_seconds for result in results),
            decode=sum(result.decode_seconds for result in results),
        )
    return Totals(
        answers=len(results),
        tokens=sum(result.num_new_tokens for result in results),
        steps=sum(result.num_steps for result in results),
        seconds=clock.decode,
        compile_seconds=clock.compile,
    )


def running(clock: Clock) -> str:
    """Tokens per step and per second so far, answers in the making included, in words."""
    return Totals(0, clock.tokens, clock.row_steps, clock.decode, clock.compile).rates()


def closing_line(t: Totals) -> str:
    """Tokens, steps and speed of the answers together."""
    answers = f"{t.answers} answers, " if t.answers > 1 else ""
    compiling = (
        f", after compiling for {t.compile_seconds:.1f} s" if t.compile_seconds > 0.05 else ""
    )
    return f"{answers}{t.tokens} tokens in {t.steps} steps: {t.rates()}{compiling}"
