"""Attention of new tokens over a committed prefix and among themselves.

Every new token (a prompt, or the R nodes of a tree) sees the same prefix, so the prefix part needs
no mask beyond each row's length. The two parts are computed separately and merged by log-sum-exp;
new tokens' keys never have to enter the cache before the tokens are accepted.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.gpu import has_triton
from medusa_jax.nn.attention import attend_part, by_key_head, by_token, merge, near
from medusa_jax.nn.kernels import gpu_attention, tpu_attention
from medusa_jax.nn.rope import apply_rope


def prefix_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    mask_BTT: jax.Array,
    position_BT: jax.Array,
    prefix: tuple[jax.Array, jax.Array],
    prefix_length_B: jax.Array,
    *,
    window: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of T new tokens over a ragged prefix and, masked, over themselves.

    Args:
      q_BTNH: queries of the new tokens, not rotated yet.
      k_BTKH: keys of the new tokens, likewise; K divides N.
      v_BTKH: values of the new tokens.
      angles: cosines and sines, float32 [B, T, H/2], from `medusa_jax.nn.rope.rope_angles`.
      mask_BTT, position_BT, window: see `medusa_jax.nn.attention.attention`.
      prefix: cached keys [B, K, H, S] and values [B, K, S, H], any float dtype; slot s holds
        position s.
      prefix_length_B: int32 number of valid slots per row.
      mesh: what heads are spread over; None: they are on one device.

    Returns:
      [B, T, N, H] in q's dtype, and the new keys, rotated. Scores and softmax are float32.
    """
    mask_BTT = near(mask_BTT, position_BT, window)
    new = (q_BTNH, k_BTKH, v_BTKH, *angles, mask_BTT, position_BT)
    return _with_prefix(window, mesh, *new, *prefix, prefix_length_B)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_prefix(window: int | None, mesh: Mesh | None, *arrays: jax.Array) -> Any:
    """`prefix_attention` with a mask limited to the window; by a kernel where there is one."""
    options = {"window": window, "mesh": mesh}
    kernels = {"tpu": functools.partial(tpu_attention.fused_attention, **options)}
    if reads_valid_slots("gpu", *arrays[7].shape[2:]):
        on_gpu = functools.partial(gpu_attention.fused_attention, **options)
        kernels["cuda"] = functools.partial(_rotated, on_gpu)
    return jax.lax.platform_dependent(*arrays, default=_products(window), **kernels)


def _products(window: int | None) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return functools.partial(_rotated, functools.partial(_in_two_parts, window))


def _rotated(attend, q, k, v, cos, sin, *others) -> tuple[jax.Array, jax.Array]:
    """What `attend` gives for rotated queries and keys, and these keys."""
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    return attend(q, k, v, *others), k


def reads_valid_slots(platform: str, head_dim: int, slots: int) -> bool:
    """Whether a kernel attends to a prefix, which leaves the slots beyond it alone.

    Args:
      platform: "cpu", "gpu" or "tpu".
      head_dim: of keys and values.
      slots: of the cache.
    """
    if platform == "gpu":
        return has_triton() and gpu_attention.supports(head_dim, slots)
    return platform == "tpu"


def _forward(window: int | None, mesh: Mesh | None, *arrays: jax.Array) -> tuple[Any, Any]:
    return _with_prefix(window, mesh, *arrays), arrays


def _backward(window: int | None, mesh: Mesh | None, arrays: Any, grad: Any) -> Any:
    """The kernel has no gradient; that of the products is the same."""
    del mesh
    return jax.vjp(_products(window), *arrays)[1](grad)


_with_prefix.defvjp(_forward, _backward)


def _in_two_parts(
    window: int | None, q, k, v, mask_BTT, position_BT, prefix_k, prefix_v, prefix_length_B
) -> jax.Array:
    """Attends to prefix and new tokens separately, then merges."""
    q_BKGTH, k_BKHT, v_BKTH = by_key_head(q, k, v)
    part = attend_part(q_BKGTH, k_BKHT, v_BKTH, mask_BTT[:, None, None])
    slot_11S = jnp.arange(prefix_v.shape[2], dtype=jnp.int32)[None, None, :]
    seen_BTS = slot_11S < prefix_length_B[:, None, None]
    if window is not None:
        seen_BTS = seen_BTS & (position_BT[:, :, None] - slot_11S < window)
    q_BKGTH = q_BKGTH.astype(prefix_k.dtype)  # a cache may be kept in a wider one
    part = merge(part, attend_part(q_BKGTH, prefix_k, prefix_v, seen_BTS[:, None, None]))
    return by_token(part.value / part.total[..., None]).astype(q.dtype)
