"""Attention over a committed prefix and among new tokens as one TPU kernel (Pallas, Mosaic).

The scores never leave the chip's vector memory, and only blocks of slots that some token of the row
sees are read. Queries and results lie as the projections have them, one head after the other in the
last axis: nothing is transposed in between. The running softmax (maximum, sum, values) is float32,
as in `medusa_jax.nn.attention.attend_part`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import FLAT_ATTENTION, on_each_device
from medusa_jax.nn.kernels.tpu_softmax import TOKENS, attend
from medusa_jax.tpu import leaves_results_on_chip

_SLOTS = 512  # of the prefix, in one block
_ROWS = 256  # queries of one key head, in one block
_BLOCK_BYTES = 1 << 20  # of keys, in one block; as many of values, and two of each in flight
_NEW_BYTES = 1 << 18  # of the new tokens' keys, in one block
_RESULT_BYTES = 2 << 20  # that stay on the chip
_WIDE_BLOCK = 48 << 20  # of the chip's memory, where heads fit no block of the sizes above


def fused_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    cos_BTh: jax.Array,
    sin_BTh: jax.Array,
    mask_BTT: jax.Array,
    position_BT: jax.Array,
    prefix_k_BKHS: jax.Array,
    prefix_v_BKSH: jax.Array,
    prefix_length_B: jax.Array,
    window: int | None = None,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Attention of T new tokens over a ragged prefix and, masked, over themselves.

    Heads that are spread over a mesh stay where they are: every device runs the kernel on its own.

    Args:
      q_BTNH: queries, any float dtype.
      k_BTKH: keys of the new tokens; K divides N.
      v_BTKH: their values.
      cos_BTh, sin_BTh: by which queries and new keys are rotated, see `medusa_jax.nn.rope`.
      mask_BTT: bool [B or 1, T, T], see `medusa_jax.nn.attention.attention`; a window's limit
        included.
      position_BT: int32 absolute positions of the new tokens.
      prefix_k_BKHS: keys of the prefix, any float dtype; slot s holds position s.
      prefix_v_BKSH: its values, of the same dtype.
      prefix_length_B: int32 valid slots.
      window: keys of the prefix at this distance or further are not seen.
      mesh: see `on_each_device`.
      interpret: computes the same without a TPU.

    Returns:
      [B, T, N, H] in q's dtype, and the new keys, rotated.
    """
    B, T, _, H = q_BTNH.shape
    more = -T % TOKENS
    tokens = [(0, 0), (0, more), (0, 0)]
    # Made one axis here, since on a mesh XLA copies what is reshaped inside.
    flat = (x.reshape(B, T, -1) for x in (q_BTNH, k_BTKH, v_BTKH))
    new = (jnp.pad(x, tokens) for x in (*flat, cos_BTh, sin_BTh))
    mask_BTT = jnp.pad(mask_BTT.astype(jnp.int32), [(0, 0), (0, more), (0, more)])
    position_BT = jnp.pad(position_BT, [(0, 0), (0, more)], mode="edge")
    local = functools.partial(_on_one_device, window=window, interpret=interpret)
    call = on_each_device(local, mesh, k_BTKH.shape[2], FLAT_ATTENTION)
    prefix = (prefix_k_BKHS, prefix_v_BKSH, prefix_length_B)
    out, rotated = call(*new, mask_BTT, position_BT, *prefix)
    return out[:, :T].reshape(B, T, -1, H), rotated[:, :T].reshape(B, T, -1, H)


def _on_one_device(
    q, k, v, cos, sin, mask, position, prefix_k, prefix_v, length_B, *, window, interpret
):
    """`fused_attention` of padded tokens."""
    B, T, _ = q.shape
    K, H, S = prefix_k.shape[1:]
    turned = slots_last(H)
    if turned:
        prefix_v = prefix_v.swapaxes(2, 3)
    N = q.shape[2] // H
    group, slots = N // K, min(_SLOTS, S)
    most = _channels_at_once(slots * prefix_k.dtype.itemsize, T * k.dtype.itemsize)
    heads = _heads_at_once(K, H, most)
    tokens = _tokens_at_once(T, group)
    first_B = jnp.zeros_like(length_B)
    if window is not None:
        first_B = jnp.maximum(position.min(axis=1) - (window - 1), 0) // slots
    bounds = (length_B, first_B, jnp.maximum(-(-length_B // slots) - first_B, 0))
    out, rotated = pl.pallas_call(
        functools.partial(attend, group=group, slots=slots, window=window, turned=turned),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(bounds),
            grid=(B, T // tokens, K // heads, -(-S // slots)),
            scratch_shapes=_scratch(heads, group * tokens, H, q.dtype),
            **_blocks(heads, group, H, T, tokens, slots, mask.shape[0] == 1, turned),
        ),
        out_shape=[_result(q.shape, q.dtype), jax.ShapeDtypeStruct(k.shape, k.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=_WIDE_BLOCK if heads * H > most else None,
        ),
        cost_estimate=_cost(B * T * N * (S + T), H, prefix_k),
        interpret=interpret,
        name="tree_attention",
    )(
        *bounds,
        q,
        k,
        v,
        cos,
        sin,
        mask,
        position[:, :, None],
        prefix_k,
        prefix_v,
    )
    return out, rotated


def _cost(scores: int, head_dim: int, prefix_k: jax.Array) -> pl.CostEstimate:
    return pl.CostEstimate(
        flops=4 * scores * head_dim,
        bytes_accessed=2 * prefix_k.size * prefix_k.dtype.itemsize,
        transcendentals=scores,
    )


def _result(shape: tuple[int, ...], dtype: Any) -> Any:
    """On the chip if it is small: there the product that follows does not wait for it."""
    is_small = math.prod(shape) * jnp.dtype(dtype).itemsize <= _RESULT_BYTES
    stays = is_small and leaves_results_on_chip()
    return pltpu.VMEM(shape, dtype) if stays else jax.ShapeDtypeStruct(shape, dtype)


def _scratch(heads: int, rows: int, H: int, dtype: Any) -> list[Any]:
    """The running softmax, and the rotated queries."""
    softmax = [pltpu.VMEM((heads, rows, width), jnp.float32) for width in (1, 1, H)]
    return [*softmax, pltpu.VMEM((heads, rows, H), dtype)]


def _blocks(
    heads: int,
    group: int,
    H: int,
    T: int,
    tokens: int,
    slots: int,
    one_mask: bool,
    turned: bool,
) -> dict[str, Any]:
    """What the kernel sees at once, at rows b, tokens t, key heads h and slots s of the grid."""

    def of_new(width: int, rows: int, of_row: Any) -> pl.BlockSpec:
        return pl.BlockSpec((1, rows, width), lambda b, t, h, s, *_: (b, of_row(t), h))

    def block(b: Any, s: Any, first: Any, number: Any) -> Any:
        # After the last block comes the same one again: what is there already is not read twice.
        return first[b] + jnp.minimum(s, jnp.maximum(number[b] - 1, 0))

    of_keys = pl.BlockSpec(
        (1, heads, H, slots),
        lambda b, t, h, s, _, first, number: (b, h, 0, block(b, s, first, number)),
    )
    of_values = pl.BlockSpec(
        (1, heads, slots, H),
        lambda b, t, h, s, _, first, number: (b, h, block(b, s, first, number), 0),
    )
    queries = of_new(heads * group * H, tokens, lambda t: t)
    every = of_new(heads * H, T, lambda t: 0)
    of_angle = pl.BlockSpec((1, T, H // 2), lambda b, t, h, s, *_: (b, 0, 0))
    of_mask = pl.BlockSpec((1, tokens, T), lambda b, t, h, s, *_: (0 if one_mask else b, t, 0))
    of_position = pl.BlockSpec((1, tokens, 1), lambda b, t, h, s, *_: (b, t, 0))
    prefix = (of_keys, of_keys if turned else of_values)
    return {
        "in_specs": [queries, every, every, of_angle, of_angle, of_mask, of_position, *prefix],
        "out_specs": [queries, every],
    }


def slots_last(head_dim: int) -> bool:
    """Whether values have slots last in memory, as keys do: so a TPU need not pad narrow heads."""
    return head_dim % 128 != 0


def _channels_at_once(slot_bytes: int, new_bytes: int) -> int:
    """Channels of one block, of which a block of slots and the new tokens have these bytes each."""
    return min(_BLOCK_BYTES // slot_bytes, _NEW_BYTES // new_bytes)


def _heads_at_once(num_heads: int, head_dim: int, most: int) -> int:
    """Key heads of one block: whole registers of 128 lanes, of `most` channels where that is so.

    Of 32 heads of 100 only all together fill whole registers.
    """
    parts = [heads for heads in range(1, num_heads + 1) if num_heads % heads == 0]
    whole = [heads for heads in parts if heads * head_dim % 128 == 0] or [num_heads]
    return max((heads for heads in whole if heads * head_dim <= most), default=whole[0])


def _tokens_at_once(num_tokens: int, group: int) -> int:
    """Tokens of one block: a multiple of `TOKENS` that divides them all."""
    most = max(_ROWS // group // TOKENS, 1) * TOKENS
    return math.gcd(num_tokens, most) if num_tokens > most else num_tokens
