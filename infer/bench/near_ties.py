"""Where texts that should be the same part, and how nearly two tokens tied there."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from infer.bench.verify import next_logits
from medusa_jax import MedusaLM
from medusa_jax.decoding.noise import gumbel
from medusa_jax.decoding.runtime import make_request

# Sums of other shapes differ by about 1e-5 of a logit; below this, either token may win.
NEAR = 1e-4


def parting(
    lm: MedusaLM,
    prompt: Sequence[int],
    texts: tuple[Sequence[int], Sequence[int]],
    *,
    temperature: float,
    seed: int,
    number: int,
) -> dict[str, Any] | None:
    """The first token that two answers to a prompt do not share; None: they are the same.

    Args:
      lm: the model, whose plain logits decide.
      prompt: token ids.
      texts: token ids of both answers.
      temperature: 0: the answers are greedy.
      seed: of the request.
      number: of the prompt.

    Returns:
      JSON values: "position" in the answer, counted from 0; "lead", by which the logit of the first
      text's token, noise included, exceeds that of the other's (in logits: scores times the
      temperature); "near_tie", whether that is less than 1e-4 either way. Where one answer is the
      beginning of the other, there is no lead (null), and nothing excuses it.
    """
    ours, theirs = map(list, texts)
    if ours == theirs:
        return None
    pairs = itertools.zip_longest(ours, theirs)
    at, tokens = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    if None in tokens:
        return {"position": at, "lead": None, "near_tie": False}
    ids = [*prompt, *ours[:at]]
    logits_V = next_logits(lm, ids)
    key_12 = make_request([1], seed=seed, numbers=[number]).key_B2
    position_11 = jnp.full((1, 1), len(ids), jnp.int32)
    noise_2 = np.asarray(gumbel(key_12, position_11, jnp.asarray(tokens, jnp.int32)))[0, 0]
    first, second = logits_V[list(tokens)] + temperature * noise_2
    lead = float(first - second)
    return {"position": at, "lead": lead, "near_tie": abs(lead) < NEAR}
