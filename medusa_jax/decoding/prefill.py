"""Running prompts, whole or a chunk at a time. Plain functions, which `runtime` compiles.

No tree and no batch is needed yet: `step.insert` gives the rows a place in one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.decoding import cache as kv_cache
from medusa_jax.decoding import logprobs
from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.decoder import Decoder
from medusa_jax.decoding.drafting.draft import pick
from medusa_jax.decoding.state import Prefilled, Request
from medusa_jax.nn.llama import causal_mask


def prefill_rows(
    decoder: Decoder, params: Any, request: Request, prompt_BT: jax.Array, length_B: jax.Array
) -> Prefilled:
    """Runs whole prompts and chooses the first new token of each.

    Args:
      decoder: static description.
      params: {"backbone"}.
      request: what each row asks for.
      prompt_BT: int32, right-padded with anything.
      length_B: int32 prompt lengths, 1 <= length <= T.
    """
    B, T = prompt_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[None], (B, T))
    hidden_BTD, new = decoder.run(
        params,
        prompt_BT,
        position_BT,
        None,
        context_BT=jnp.broadcast_to(length_B[:, None], (B, T)),
    )
    cache = kv_cache.of_prompts(new, length_B, jnp.dtype(decoder.cache_dtype))
    return choose_first(decoder, params, request, cache, pick(hidden_BTD, length_B - 1))


def extend_rows(
    decoder: Decoder,
    params: Any,
    cache: KVCache,
    token_BT: jax.Array,
    num_B: jax.Array,
    context_B: jax.Array,
) -> tuple[KVCache, jax.Array]:
    """Runs T more tokens of every row on top of those that its cache holds.

    Args:
      decoder: static description.
      params: {"backbone"}.
      cache: with room for T more slots in every row.
      token_BT: int32, right-padded with anything.
      num_B: int32, how many of them count, 1 <= num <= T.
      context_B: int32, tokens of the whole prompt (see `rope_angles`).

    Returns:
      The cache with the tokens that count, and hidden_BD [B, D] at the last of them.
    """
    B, T = token_BT.shape
    position_BT = cache.length_B[:, None] + jnp.arange(T, dtype=jnp.int32)[None]
    hidden_BTD, new = decoder.run(
        params,
        token_BT,
        position_BT,
        causal_mask(T),
        prefix=cache.layers,
        prefix_length_B=cache.length_B,
        context_BT=jnp.broadcast_to(context_B[:, None], (B, T)),
    )
    return kv_cache.append(cache, new, num_B, decoder.mesh), pick(hidden_BTD, num_B - 1)


def choose_first(
    decoder: Decoder, params: Any, request: Request, cache: KVCache, hidden_BD: jax.Array
) -> Prefilled:
    """Chooses the first new token of rows whose prompts have been run.

    Args:
      decoder: static description.
      params: {"backbone"}.
      request: what each row asks for.
      cache: keys and values of the prompts.
      hidden_BD: compute dtype, hidden states at the last token of each prompt.
    """
    logits_BV = decoder.run(params, hidden_BD, method="logits")
    root_B = decoder.rule.first(request.biased(logits_BV), request, cache.length_B)
    logprob_B = logprobs.of_tokens(logits_BV, root_B) if decoder.logprobs else None
    return Prefilled(request, cache, hidden_BD, root_B, logprob_B)


def empty_rows(decoder: Decoder, params: Any, *, rows: int, capacity: int) -> KVCache:
    """The empty cache with which prompts that are run in chunks begin."""
    del params
    return kv_cache.empty_cache(decoder.model, rows, capacity, jnp.dtype(decoder.cache_dtype))


def keep_rows(
    decoder: Decoder, params: Any, cache: KVCache, length_B: jax.Array, *, capacity: int
) -> KVCache:
    """Rows of which only the first `length_B` tokens count, with `capacity` slots or more.

    A cache that is much larger is cut, since every step may read all slots. One that is not stays,
    or every turn of a conversation would cut it and make it grow again.
    """
    del decoder, params
    fits = capacity <= cache.capacity < 2 * capacity
    cache = cache if fits else kv_cache.resized(cache, capacity)
    return KVCache(cache.layers, length_B)
