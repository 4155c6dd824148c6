"""The most likely tokens of a whole vocabulary."""

import jax
import jax.numpy as jnp

_BLOCK = 128
# So small that a vocabulary spread over a few devices has whole blocks on each: 128256 tokens over
# four are 501 blocks of 64 each. Otherwise half of the LM head would be gathered at every step.
_TPU_BLOCK = 64


def best_token(logits: jax.Array) -> jax.Array:
    """The first of the highest logits, or the first NaN: floating [..., V] -> int32 [...]."""
    return jax.lax.platform_dependent(logits, cpu=_by_blocks, default=_argmax)


def _argmax(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _by_blocks(logits: jax.Array) -> jax.Array:
    """The block with the highest maximum, then its first highest logit.

    XLA's CPU backend compares the pairs of an argmax one by one, but maxima alone many at a time.
    """
    leading = logits.ndim - 1
    padding = [(0, 0)] * leading + [(0, -logits.shape[-1] % _BLOCK)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf)
    blocks = blocks.reshape(*logits.shape[:-1], -1, _BLOCK)
    block = _argmax(blocks.max(-1))
    logits = jnp.take_along_axis(blocks, block[..., None, None], axis=-2).squeeze(-2)
    return block * _BLOCK + _argmax(logits)


def best_tokens(logits: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """The highest logits, falling, and their tokens: floating [..., V] -> [..., number] twice.

    Like `jax.lax.top_k`, for which a TPU would sort the whole vocabulary, except that here a TPU
    may order tokens of exactly the same logit differently.
    """
    top, token = jax.lax.platform_dependent(
        logits,
        tpu=lambda logits: _top_by_blocks(logits, number),
        default=lambda logits: tuple(jax.lax.top_k(logits, number)),
    )
    return top, token


def _top_by_blocks(logits: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """The blocks with the highest maxima hold the highest logits: only these are sorted."""
    size, leading = logits.shape[-1], logits.shape[:-1]
    num_blocks = -(-size // _TPU_BLOCK)
    if num_blocks <= number:
        top, token = jax.lax.top_k(logits, number)
        return top, token
    padding = [(0, 0)] * len(leading) + [(0, -size % _TPU_BLOCK)]
    blocks = jnp.pad(logits, padding, constant_values=-jnp.inf)
    blocks = blocks.reshape(*leading, num_blocks, _TPU_BLOCK)
    # In the order of the vocabulary, so that the first of equal logits wins.
    kept = jnp.sort(jax.lax.top_k(blocks.max(-1), number)[1], axis=-1)
    candidates = jnp.take_along_axis(blocks, kept[..., None], axis=-2)
    top, place = jax.lax.top_k(candidates.reshape(*leading, -1), number)
    token = (
        jnp.take_along_axis(kept, place // _TPU_BLOCK, axis=-1) * _TPU_BLOCK + place % _TPU_BLOCK
    )
    return top, token
