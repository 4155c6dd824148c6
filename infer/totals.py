"""Sums over answers: tokens, steps and seconds."""

import dataclasses
import time
from collections.abc import Sequence

from medusa_jax import Generation


@dataclasses.dataclass(frozen=True)
class Totals:
    """Sums over answers.

    Attributes:
      answers: how many.
      tokens: new tokens.
      steps: backbone passes after prefill.
      seconds: that it took, see where it comes from.
      compile_seconds: not contained in `seconds`.
    """

    answers: int
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

    def rates(self) -> str:
        """Tokens per step and per second in words."""
        return f"{self.tokens_per_step:.2f} tokens/step, {self.tokens_per_second:.1f} tokens/s"


def totals(batches: Sequence[Sequence[Generation]]) -> Totals:
    """Sums batches of which each was decoded at once: the slowest row's seconds are its own."""
    results = [result for batch in batches for result in batch]
    return Totals(
        answers=len(results),
        tokens=sum(r.num_new_tokens for r in results),
        steps=sum(r.num_steps for r in results),
        seconds=sum(max(r.decode_seconds for r in batch) for batch in batches),
        compile_seconds=sum(max(r.compile_seconds for r in batch) for batch in batches),
    )


class Tally:
    """Counts answers as they are done, from its creation on."""

    def __init__(self, batch_size: int) -> None:
        self._alone = batch_size == 1
        self._results: list[Generation] = []
        self._start = time.perf_counter()

    def add(self, result: Generation) -> None:
        """Counts one more."""
        self._results.append(result)

    def totals(self) -> Totals:
        """So far.

        Answers that were decoded one after the other took the sum of their decoding. Those that
        were decoded side by side took the time that has passed, prompts included, and compiling
        not.
        """
        one_by_one = totals([[result] for result in self._results])
        if self._alone:
            return one_by_one
        compiled = max((result.compile_seconds for result in self._results), default=0.0)
        passed = time.perf_counter() - self._start - compiled
        return dataclasses.replace(one_by_one, seconds=passed, compile_seconds=compiled)


def closing_line(t: Totals) -> str:
    """Tokens, steps and speed of the answers together."""
    answers = f"{t.answers} answers, " if t.answers > 1 else ""
    compiling = (
        f", after compiling for {t.compile_seconds:.1f} s" if t.compile_seconds > 0.05 else ""
    )
    return f"{answers}{t.tokens} tokens in {t.steps} steps: {t.rates()}{compiling}"
