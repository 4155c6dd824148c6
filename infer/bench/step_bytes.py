"""Bytes of weights and cache that a step of decoding reads, and that a batch takes."""

from typing import Any

import jax
import jax.numpy as jnp

from infer.bench.random_models import NUM_HEADS
from medusa_jax import MedusaLM
from medusa_jax.decoding.cache import num_slots, storage_dtype
from medusa_jax.nn.prefix_attention import reads_valid_slots
from medusa_jax.tree.dynamic import heads_used


def parameter_bytes(lm: MedusaLM) -> int:
    """Bytes of weights that a step reads: only rows of an embedding, a shared LM head twice."""
    count, embed = total_bytes(lm.params), total_bytes(lm.params["embed"])
    if not lm.config.tie_embeddings:
        count -= embed
    depth = heads_used(lm.tree, NUM_HEADS)
    if not depth or lm.heads_params is None:
        return count
    used = jax.tree.map(lambda x: x[:depth], lm.heads_params)
    shared = 0 if "projection" in used else embed  # the LM head has the embedding's shape
    return count + total_bytes(used) + shared


def total_bytes(params: Any) -> int:
    """Bytes of all arrays."""
    return sum(x.nbytes for x in jax.tree.leaves(params))


def cache_bytes(lm: MedusaLM, capacity: int, batch: int) -> int:
    """Bytes of a whole cache of `batch` rows with room for `capacity` tokens each."""
    return _slot_bytes(lm) * num_slots(capacity, _cache_dtype(lm)) * batch


def read_cache_bytes(lm: MedusaLM, capacity: int, batch: int, tokens: float) -> int:
    """Bytes of a cache that attention reads in a step: with a kernel those of `tokens`, else all.

    What kernels read beyond these to fill their last block, at most 511 slots, is not counted.

    Args:
      lm: the model.
      capacity: tokens that each row has room for.
      batch: rows.
      tokens: how many of a row are in the cache.
    """
    slots = num_slots(capacity, _cache_dtype(lm))
    if reads_valid_slots(lm.platform, lm.config.head_dim, slots):
        return round(_slot_bytes(lm) * min(tokens, slots) * batch)
    return cache_bytes(lm, capacity, batch)


def _cache_dtype(lm: MedusaLM) -> Any:
    return jnp.dtype(storage_dtype(lm.dtype, lm.platform))


def _slot_bytes(lm: MedusaLM) -> int:
    """Bytes of the keys and values of one token."""
    c = lm.config
    return 2 * c.num_layers * c.num_kv_heads * c.head_dim * _cache_dtype(lm).itemsize
