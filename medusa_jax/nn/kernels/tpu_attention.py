"""Attention over a committed prefix and among new tokens as one TPU kernel (Pallas, Mosaic).

The scores never leave the chip's vector memory, only blocks of slots that some token of the row
sees are read, and queries are taken from and results put where the projections have them, a head
behind the other in the last axis: nothing is transposed in between. The running softmax (maximum,
sum, values) is float32, as in `medusa_jax.nn.attention.attend_part`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import on_each_device

_SLOTS = 512  # of the prefix, in one block
_ROWS = 256  # queries of one key head, in one block
_BLOCK_BYTES = 1 << 20  # of keys, in one block; as many of values, and twice both in flight
_TOKENS = 16  # what new tokens are padded to: bfloat16 registers have 16 rows


def fused_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    mask_BTT: jax.Array,
    position_BT: jax.Array,
    prefix_k_BKHS: jax.Array,
    prefix_v_BKSH: jax.Array,
    prefix_length_B: jax.Array,
    window: int | None = None,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Attention of T new tokens over a ragged prefix and, masked, over themselves.

    Heads that are spread over a mesh stay where they are: every device runs the kernel on its own.

    Args:
      q_BTNH: queries, rotated; any float dtype.
      k_BTKH: keys of the new tokens; K divides N.
      v_BTKH: their values.
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
      [B, T, N, H] in q's dtype.
    """
    T = q_BTNH.shape[1]
    more = -T % _TOKENS
    if more:
        tokens = [(0, 0), (0, more), (0, 0), (0, 0)]
        q_BTNH, k_BTKH, v_BTKH = (jnp.pad(x, tokens) for x in (q_BTNH, k_BTKH, v_BTKH))
        mask_BTT = jnp.pad(mask_BTT, [(0, 0), (0, more), (0, more)])
        position_BT = jnp.pad(position_BT, [(0, 0), (0, more)], mode="edge")
    arrays = (q_BTNH, k_BTKH, v_BTKH, mask_BTT.astype(jnp.int32), position_BT)
    call = on_each_device(
        functools.partial(_on_one_device, window=window, interpret=interpret),
        mesh,
        k_BTKH.shape[2],
        ("BTNH", "BTKH", "BTKH", "BTT", "BT", "BKHS", "BKSH", "B"),
        "BTNH",
    )
    out_BTNH = call(*arrays, prefix_k_BKHS, prefix_v_BKSH, prefix_length_B)
    return out_BTNH[:, :T]


def _on_one_device(q, k, v, mask, position, prefix_k, prefix_v, length_B, *, window, interpret):
    """`fused_attention` of padded tokens."""
    B, T, N, H = q.shape
    K, S = k.shape[2], prefix_k.shape[3]
    turned = slots_last(H)
    if turned:
        prefix_v = prefix_v.swapaxes(2, 3)
    group, slots = N // K, min(_SLOTS, S)
    heads = _heads_at_once(K, H, slots * H * prefix_k.dtype.itemsize)
    tokens = _tokens_at_once(T, group)
    grid = (B, T // tokens, K // heads, -(-S // slots))
    first_B = jnp.zeros_like(length_B)
    if window is not None:
        first_B = jnp.maximum(position.min(axis=1) - (window - 1), 0) // slots
    bounds = (length_B, first_B, jnp.maximum(-(-length_B // slots) - first_B, 0))

    def block(s: Any, first: Any, number: Any) -> Any:
        # Beyond the last block the same one again: what is there already is not read twice.
        return first + jnp.minimum(s, jnp.maximum(number - 1, 0))

    def of_new(width: int, rows: int, of_row: Any) -> pl.BlockSpec:
        return pl.BlockSpec((1, rows, width), lambda b, t, h, s, *_: (b, of_row(t), h))

    def keys_at(b: Any, t: Any, h: Any, s: Any, _: Any, first: Any, number: Any) -> Any:
        return b, h, 0, block(s, first[b], number[b])

    def values_at(b: Any, t: Any, h: Any, s: Any, _: Any, first: Any, number: Any) -> Any:
        return b, h, block(s, first[b], number[b]), 0

    of_keys = pl.BlockSpec((1, heads, H, slots), keys_at)
    of_values = pl.BlockSpec((1, heads, slots, H), values_at)
    own, every = (lambda t: t), (lambda t: 0)
    of_mask = (lambda b: 0) if mask.shape[0] == 1 else (lambda b: b)
    kernel = functools.partial(_kernel, group=group, slots=slots, window=window, turned=turned)
    out = pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=grid,
            in_specs=[
                of_new(heads * group * H, tokens, own),
                of_new(heads * H, T, every),
                of_new(heads * H, T, every),
                pl.BlockSpec((1, tokens, T), lambda b, t, h, s, *_: (of_mask(b), t, 0)),
                pl.BlockSpec((1, tokens, 1), lambda b, t, h, s, *_: (b, t, 0)),
                of_keys,
                of_keys if turned else of_values,
            ],
            out_specs=of_new(heads * group * H, tokens, own),
            scratch_shapes=[
                pltpu.VMEM((heads, group * tokens, 1), jnp.float32),
                pltpu.VMEM((heads, group * tokens, 1), jnp.float32),
                pltpu.VMEM((heads, group * tokens, H), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((B, T, N * H), q.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * B * T * N * H * (S + T),
            bytes_accessed=2 * prefix_k.size * prefix_k.dtype.itemsize,
            transcendentals=B * T * N * (S + T),
        ),
        interpret=interpret,
        name="tree_attention",
    )(
        *bounds,
        q.reshape(B, T, N * H),
        k.reshape(B, T, K * H),
        v.reshape(B, T, K * H),
        mask,
        position[:, :, None],
        prefix_k,
        prefix_v,
    )
    return out.reshape(B, T, N, H)


def slots_last(head_dim: int) -> bool:
    """Whether values lie in memory as keys do, slots last: so a TPU keeps narrow heads unpadded."""
    return head_dim % 128 != 0


def _heads_at_once(num_heads: int, head_dim: int, head_bytes: int) -> int:
    """Key heads of one block: as many as fit, in whole registers of 128 lanes."""
    fitting = [
        heads
        for heads in range(1, num_heads + 1)
        if num_heads % heads == 0 and heads * head_bytes <= _BLOCK_BYTES
    ]
    whole = [heads for heads in fitting if heads * head_dim % 128 == 0]
    return max(whole, default=num_heads)


def _tokens_at_once(num_tokens: int, group: int) -> int:
    """Tokens of one block: a multiple of `_TOKENS` that divides them all."""
    most = max(_ROWS // group // _TOKENS, 1) * _TOKENS
    return math.gcd(num_tokens, most) if num_tokens > most else num_tokens


def _kernel(
    length_ref,
    first_ref,
    number_ref,
    q_ref,
    k_ref,
    v_ref,
    mask_ref,
    position_ref,
    prefix_k_ref,
    prefix_v_ref,
    out_ref,
    top_ref,
    total_ref,
    value_ref,
    *,
    group,
    slots,
    window,
    turned,
):
    """One block of slots for some heads of some tokens; the first adds the new tokens' keys."""
    b, s = pl.program_id(0), pl.program_id(3)
    heads, rows, H = value_ref.shape
    tokens = rows // group

    def lanes(head: int) -> slice:
        return slice(head * H, (head + 1) * H)

    def queries(head: int) -> jax.Array:
        """Of all heads that share a key head, one group of tokens below the other."""
        own = range(head * group, (head + 1) * group)
        return jnp.concatenate([q_ref[0, :, lanes(n)] for n in own], axis=0)

    def of_group(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x] * group, axis=0)

    @pl.when(s == 0)
    def _() -> None:
        seen = of_group(mask_ref[0]) != 0
        for head in range(heads):
            k, v = k_ref[0, :, lanes(head)], v_ref[0, :, lanes(head)]
            score = _dot(queries(head), k, 1) * H**-0.5
            score = jnp.where(seen, score, -jnp.inf)
            # Padding sees nothing; a finite floor keeps exp(-inf - top) at 0 instead of NaN.
            top = jnp.maximum(score.max(axis=1, keepdims=True), jnp.finfo(jnp.float32).min)
            weight = jnp.exp(score - top)
            top_ref[head] = top
            total_ref[head] = weight.sum(axis=1, keepdims=True)
            value_ref[head] = _dot(weight.astype(v.dtype), v, 0)

    @pl.when(s < number_ref[b])
    def _() -> None:
        begin = (first_ref[b] + s) * slots
        slot = begin + jax.lax.broadcasted_iota(jnp.int32, (rows, slots), 1)
        seen = slot < length_ref[b]
        if window is not None:
            seen &= of_group(position_ref[0]) - slot < window
        # Slots that hold nothing may hold NaN, which a weight of 0 does not take away.
        shape = prefix_v_ref.shape[2:]
        is_valid = begin + jax.lax.broadcasted_iota(jnp.int32, shape, int(turned)) < length_ref[b]
        for head in range(heads):
            k, v = prefix_k_ref[0, head], prefix_v_ref[0, head]
            v = jnp.where(is_valid, v.astype(jnp.float32), 0.0).astype(v.dtype)
            score = _dot(queries(head).astype(k.dtype), k, 0) * H**-0.5
            score = jnp.where(seen, score, -jnp.inf)
            before = top_ref[head]
            top = jnp.maximum(before, score.max(axis=1, keepdims=True))
            weight, scale = jnp.exp(score - top), jnp.exp(before - top)
            top_ref[head] = top
            total_ref[head] = total_ref[head] * scale + weight.sum(axis=1, keepdims=True)
            value = _dot(weight.astype(v.dtype), v, int(turned))
            value_ref[head] = value_ref[head] * scale + value

    @pl.when(s == pl.num_programs(3) - 1)
    def _() -> None:
        for head in range(heads):
            out = (value_ref[head] / total_ref[head]).astype(out_ref.dtype)
            for n in range(group):
                out_ref[0, :, lanes(head * group + n)] = out[n * tokens : (n + 1) * tokens]


def _dot(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """x [R, C] times y, of which `axis` is C: float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((1,), (axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
