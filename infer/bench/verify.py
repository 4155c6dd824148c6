"""How far emitted tokens are from the base model's choice in float32, position by position."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.nn.llama import Llama, causal_mask

_BUCKET = 128


def verify(
    lm: MedusaLM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Runs prompts and greedy answers through the base model once.

    Args:
      lm: the model in float32.
      prompts: token ids.
      answers: token ids, one list for each prompt.

    Returns:
      "positions": tokens looked at; "other_choices": at how many of them the base model's most
      likely token is another one; "largest_gap": by how much at most that token's logit is higher.
    """
    gaps = [logit_gaps(lm, *pair) for pair in zip(prompts, answers, strict=True)]
    gap = np.concatenate([np.zeros(0, np.float32), *gaps])
    return {
        "positions": int(gap.size),
        "other_choices": int((gap > 0).sum()),
        "largest_gap": float(gap.max(initial=0)),
    }


def logit_gaps(lm: MedusaLM, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    """Highest logit minus that of the emitted token: float32 [len(answer)], 0 or more."""
    ids = [*prompt, *answer]
    gap_T = _gaps(lm.config, lm.params, _padded(ids))
    return np.asarray(gap_T)[len(prompt) - 1 : len(ids) - 1]


def next_logits(lm: MedusaLM, ids: Sequence[int]) -> np.ndarray:
    """Logits of what follows some tokens, which are run once, without a cache: [V]."""
    return np.asarray(_logits(lm.config, lm.params, _padded(ids)))[len(ids) - 1]


def _padded(ids: Sequence[int]) -> jax.Array:
    token_1T = np.zeros((1, -(-len(ids) // _BUCKET) * _BUCKET), np.int32)
    token_1T[0, : len(ids)] = ids
    return jnp.asarray(token_1T)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: LlamaConfig, params: Any, token_1T: jax.Array) -> jax.Array:
    """Logits at every position: [T, V]."""
    llama, T = Llama(config), token_1T.shape[1]
    position_1T = jnp.arange(T, dtype=jnp.int32)[None]
    hidden_1TD, _ = llama.apply({"params": params}, token_1T, position_1T, causal_mask(T))
    logits_TV: Any = llama.apply({"params": params}, hidden_1TD[0], method="logits")
    return logits_TV


@functools.partial(jax.jit, static_argnums=0)
def _gaps(config: LlamaConfig, params: Any, token_1T: jax.Array) -> jax.Array:
    """The gap at every position for the token that follows: float32 [T]."""
    logits_TV = _logits(config, params, token_1T)
    next_T1 = jnp.roll(token_1T[0], -1)[:, None]
    return logits_TV.max(-1) - jnp.take_along_axis(logits_TV, next_T1, axis=1)[:, 0]
