"""Ways of decoding that are measured against each other, taking turns in rounds."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import medusa_jax
from infer.turns import take_turns
from medusa_jax import MedusaLM


@dataclasses.dataclass(frozen=True)
class Answer:
    """One prompt decoded once.

    Attributes:
      token_ids: new tokens.
      steps: backbone passes within decode_seconds.
      step_tokens: tokens that these passes gave. A library that takes the first token from the
        prefill has one less of either than it has tokens.
      prefill_seconds: running the prompt.
      decode_seconds: everything after it.
    """

    token_ids: list[int]
    steps: int
    step_tokens: int
    prefill_seconds: float
    decode_seconds: float


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way of decoding.

    Attributes:
      decoder: "autoregressive", "medusa" (both ours) or "transformers".
      tree: of Medusa, as the user wrote it.
      nodes: R of that tree; 1 without.
      warm_up: compiles and touches everything that `answer` needs for a prompt (token ids).
      answer: decodes a prompt (token ids).
    """

    decoder: str
    tree: str | None
    nodes: int
    warm_up: Callable[[list[int]], None]
    answer: Callable[[list[int]], Answer]


def our_contender(lm: MedusaLM, decoder: str, tree: str | None, max_new_tokens: int) -> Contender:
    """Our greedy decoding with lm's tree."""

    def warm_up(ids: list[int]) -> None:
        # Streaming runs the executables of `generate` step by step: two steps are enough.
        for _ in itertools.islice(medusa_jax.stream(lm, ids, max_new_tokens=max_new_tokens), 2):
            pass

    def answer(ids: list[int]) -> Answer:
        result = medusa_jax.generate(lm, [ids], max_new_tokens=max_new_tokens)[0]
        return Answer(
            result.token_ids,
            result.num_steps,
            result.num_new_tokens,
            result.prefill_seconds,
            result.decode_seconds,
        )

    return Contender(decoder, tree, lm.tree.R, warm_up, answer)


def interleave(
    contenders: Sequence[Contender],
    prompts: Sequence[list[int]],
    rounds: int,
    advance: Callable[[], None],
) -> list[list[list[Answer]]]:
    """Warms up, then lets the contenders take turns prompt by prompt.

    Args:
      contenders: in the order of their turns.
      prompts: token ids.
      rounds: how often everything is repeated.
      advance: called (rounds + 1) * prompts * contenders times, for a progress bar.

    Returns:
      Answers, indexed [contender][round][prompt].
    """
    for contender, ids in itertools.product(contenders, prompts):
        contender.warm_up(ids)
        advance()
    return take_turns([contender.answer for contender in contenders], prompts, rounds, advance)


def summarize(answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """One contender's medians over the rounds, and the rounds themselves, as JSON values."""
    rounds = [_round(row) for row in answers]
    keys = ("tokens_per_second", "tokens_per_second_with_prefill", "tokens_per_step", "step_ms")
    medians = {key: statistics.median(r[key] for r in rounds) for key in (*keys, "prefill_ms")}
    return medians | {"num_new_tokens": sum(len(a.token_ids) for a in answers[0]), "rounds": rounds}


def ratio(summary: dict[str, Any], other: dict[str, Any] | None, key: str) -> float | None:
    """Median over the rounds of summary's value divided by the other's of the same round."""
    if other is None:
        return None
    pairs = zip(summary["rounds"], other["rounds"], strict=True)
    return statistics.median(a[key] / max(b[key], 1e-12) for a, b in pairs)


def _round(answers: Sequence[Answer]) -> dict[str, float]:
    decode = max(sum(a.decode_seconds for a in answers), 1e-9)
    prefill = sum(a.prefill_seconds for a in answers)
    # max: a reply that ended at the first token has no step.
    steps = max(sum(a.steps for a in answers), 1)
    tokens = sum(a.step_tokens for a in answers)
    return {
        "tokens_per_second": tokens / decode,
        "tokens_per_second_with_prefill": sum(len(a.token_ids) for a in answers)
        / (decode + prefill),
        "tokens_per_step": tokens / steps,
        "step_ms": 1e3 * decode / steps,
        "prefill_ms": 1e3 * prefill / len(answers),
        "decode_seconds": decode,
        "steps": steps,
    }
