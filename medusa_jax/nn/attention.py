"""Attention of tokens among themselves, and the parts of it that attention over a prefix uses too.

A part is the softmax over one set of keys, not normalised yet: two of them are merged by
log-sum-exp (`medusa_jax.nn.prefix_attention`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from medusa_jax.nn.product import product

# Queries whose scores exist at once if there are many new tokens: in training, in long prompts.
_QUERY_BLOCK = 512


class PartialAttention(NamedTuple):
    """Unnormalised softmax over one part of the keys; leading axes [B, K, G, T]."""

    top: jax.Array  # largest score, float32
    total: jax.Array  # sum of exp(score - top), float32
    value: jax.Array  # sum of exp(score - top) * v, float32, trailing axis H


def attend_part(
    q_BKGTH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, mask: jax.Array
) -> PartialAttention:
    """Softmax numerator and denominator over one set of keys.

    Args:
      q_BKGTH: queries, grouped by the key head that they share; any float dtype.
      k_BKHS: keys in q's dtype.
      v_BKSH: values.
      mask: bool, broadcasts to [B, 1, 1, T, S]; True where a query sees a key. May be all False.

    Returns:
      The part, in float32.
    """
    B, K, G, T, H = q_BKGTH.shape
    # G and T fold into one axis: a plain batched matrix product per key head.
    q = q_BKGTH.reshape(B, K, G * T, H)
    score = product("BKTH,BKHS->BKTS", q, k_BKHS, q.dtype)
    score = score.reshape(B, K, G, T, -1) * (H**-0.5)
    score = jnp.where(mask, score, -jnp.inf)
    # A part may be empty for a token; a finite floor keeps exp(-inf - top) at 0 instead of NaN.
    top = jnp.maximum(score.max(axis=-1), jnp.finfo(jnp.float32).min)
    weight = jnp.exp(score - top[..., None])
    value = product("BKTS,BKSH->BKTH", weight.reshape(B, K, G * T, -1), v_BKSH, v_BKSH.dtype)
    return PartialAttention(top, weight.sum(axis=-1), value.reshape(B, K, G, T, H))


def merge(a: PartialAttention, b: PartialAttention) -> PartialAttention:
    """Log-sum-exp merge of two disjoint sets of keys."""
    top = jnp.maximum(a.top, b.top)
    scale_a, scale_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
    return PartialAttention(
        top,
        a.total * scale_a + b.total * scale_b,
        a.value * scale_a[..., None] + b.value * scale_b[..., None],
    )


def _attend_alone(
    q_BKGTH: jax.Array, k_BKHS: jax.Array, v_BKSH: jax.Array, mask: jax.Array
) -> jax.Array:
    """Attention to one set of keys, [B, K, G, T, H] in q's dtype.

    Takes a block of queries at a time, and computes it again in the backward pass: the scores of
    all queries, [B, N, T, S] in float32, would be the largest arrays of training.
    """

    def attend(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        _, total, value = attend_part(part[0], k_BKHS, v_BKSH, part[1])
        return (value / total[..., None]).astype(q_BKGTH.dtype)

    T = q_BKGTH.shape[3]
    blocks = -(-T // _QUERY_BLOCK)
    if blocks == 1:
        return attend((q_BKGTH, mask))

    def cut(x: jax.Array, fill: float) -> jax.Array:
        x = jnp.pad(
            x, [(0, -T % blocks if axis == 3 else 0) for axis in range(5)], constant_values=fill
        )
        x = x.reshape(*x.shape[:3], blocks, -1, x.shape[4])
        return jnp.moveaxis(x, 3, 0)

    # The padding of the last block has to see something, or its gradient would be NaN.
    out = jax.lax.map(jax.checkpoint(attend), (cut(q_BKGTH, 0), cut(mask, True)))
    out = jnp.moveaxis(out, 0, 3)
    return out.reshape(*out.shape[:3], -1, out.shape[-1])[:, :, :, :T]


def _attend_causally(
    q_BKGTH: jax.Array,
    k_BKHT: jax.Array,
    v_BKTH: jax.Array,
    position_BT: jax.Array,
    window: int | None,
) -> jax.Array:
    """`_attend_alone` where every token sees those before it, without a mask of all pairs.

    Blocks of keys that come after a block of queries are left out. The number of turns therefore
    varies, and there is no gradient.
    """
    T = q_BKGTH.shape[3]
    size = min(T, _QUERY_BLOCK)
    more = -T % size
    q_BKGTH = jnp.pad(q_BKGTH, [(0, 0)] * 3 + [(0, more), (0, 0)])
    k_BKHT = jnp.pad(k_BKHT, [(0, 0)] * 3 + [(0, more)])
    v_BKTH = jnp.pad(v_BKTH, [(0, 0)] * 2 + [(0, more), (0, 0)])
    position_BT = jnp.pad(position_BT, [(0, 0), (0, more)], mode="edge")

    def cut(x: jax.Array, block: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, block * size, size, axis)

    def seen(block: jax.Array, other: jax.Array) -> jax.Array:
        """bool [B or 1, T, T], which queries of a block see which keys of another."""
        index_T = jnp.arange(size, dtype=jnp.int32)
        later_TT = (block - other) * size + index_T[:, None] - index_T[None, :]
        mask_BTT = (later_TT >= 0)[None]
        if window is not None:
            places = cut(position_BT, block, 1)[:, :, None], cut(position_BT, other, 1)[:, None, :]
            mask_BTT = mask_BTT & (places[0] - places[1] < window)
        return mask_BTT[:, None, None]

    def attend(block: jax.Array) -> jax.Array:
        q = cut(q_BKGTH, block, 3)

        def add(other: jax.Array, part: PartialAttention) -> PartialAttention:
            k, v = cut(k_BKHT, other, 3), cut(v_BKTH, other, 2)
            return merge(part, attend_part(q, k, v, seen(block, other)))

        own = attend_part(q, cut(k_BKHT, block, 3), cut(v_BKTH, block, 2), seen(block, block))
        _, total, value = jax.lax.fori_loop(0, block, add, own)
        return (value / total[..., None]).astype(q.dtype)

    blocks = (T + more) // size
    if blocks == 1:
        return attend(jnp.int32(0))[:, :, :, :T]
    out = jnp.moveaxis(jax.lax.map(attend, jnp.arange(blocks, dtype=jnp.int32)), 0, 3)
    return out.reshape(*out.shape[:3], -1, out.shape[-1])[:, :, :, :T]


def attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask_BTT: jax.Array | None,
    position_BT: jax.Array,
    *,
    window: int | None = None,
) -> jax.Array:
    """Attention of T tokens among themselves.

    Args:
      q_BTNH: queries, rotated.
      k_BTKH: keys, rotated; K divides N.
      v_BTKH: values.
      mask_BTT: bool [B or 1, T, T], True where query (axis 1) sees key (axis 2). Every token must
        see itself. None: each sees itself and what precedes it, and there is no gradient.
      position_BT: int32 absolute positions.
      window: sliding window in tokens: keys at distance >= window are not seen.

    Returns:
      [B, T, N, H] in q's dtype. Scores and softmax are float32.
    """
    parts = by_key_head(q_BTNH, k_BTKH, v_BTKH)
    if mask_BTT is None:
        out_BKGTH = _attend_causally(*parts, position_BT, window)
    else:
        mask_BTT = near(mask_BTT, position_BT, window)
        out_BKGTH = _attend_alone(*parts, mask_BTT[:, None, None])
    return by_token(out_BKGTH).astype(q_BTNH.dtype)


def near(mask_BTT: jax.Array, position_BT: jax.Array, window: int | None) -> jax.Array:
    """The mask, limited to the window."""
    if window is None:
        return mask_BTT
    return mask_BTT & (position_BT[:, :, None] - position_BT[:, None, :] < window)


def by_key_head(
    q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [B, K, G, T, H], keys [B, K, H, T] and values [B, K, T, H]."""
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BKGTH = q_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    return q_BKGTH, k_BTKH.transpose(0, 2, 3, 1), v_BTKH.swapaxes(1, 2)


def by_token(x_BKGTH: jax.Array) -> jax.Array:
    """[B, T, N, H]."""
    B, K, G, T, H = x_BKGTH.shape
    return x_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)
