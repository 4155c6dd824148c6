"""The most likely token of a whole vocabulary."""

import jax
import jax.numpy as jnp

_BLOCK = 128


def best_token(logits: jax.Array) -> jax.Array:
    """The first of the highest logits, or the first NaN: floating [..., V] -> int32 [...]."""
    return jax.lax.platform_dependent(logits, cpu=_by_blocks, default=_argmax)


def _argmax(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _by_blocks(logits: jax.Array) -> jax.Array:
    """The block with the highest maximum, then its first highest logit.

    XLA's CPU backend compares the pairs of an argmax one by one, maxima alone many at a time.
    """
    leading = logits.ndim - 1
    padding = [(0, 0)] * leading + [(0, -logits.shape[-1] % _BLOCK)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf)
    blocks = blocks.reshape(*logits.shape[:-1], -1, _BLOCK)
    block = _argmax(blocks.max(-1))
    logits = jnp.take_along_axis(blocks, block[..., None, None], axis=-2).squeeze(-2)
    return block * _BLOCK + _argmax(logits)
