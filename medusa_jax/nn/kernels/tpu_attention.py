"""Attention over a committed prefix and among new tokens as one TPU kernel (Pallas, Mosaic).

The scores never leave the chip's vector memory, only blocks of slots that some token of the row
sees are read, and queries are taken from and results put where the projections have them, a head
behind the other in the last axis: nothing is transposed in between. The running softmax (maximum,
sum, values) is float32, as in `medusa_jax.nn.attention.attend_part`.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import ROTATING, on_each_device

_SLOTS = 512  # of the prefix, in one block
_ROWS = 256  # queries of one key head, in one block
_BLOCK_BYTES = 1 << 20  # of keys, in one block; as many of values, and twice both in flight
_RESULT_BYTES = 2 << 20  # that stay on the chip
_TOKENS = 8  # what new tokens are padded to: registers have 8 rows


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
    T = q_BTNH.shape[1]
    more = -T % _TOKENS
    if more:
        tokens = [(0, 0), (0, more), (0, 0), (0, 0)]
        q_BTNH, k_BTKH, v_BTKH = (jnp.pad(x, tokens) for x in (q_BTNH, k_BTKH, v_BTKH))
        mask_BTT = jnp.pad(mask_BTT, [(0, 0), (0, more), (0, more)])
        cos_BTh, sin_BTh = (jnp.pad(x, tokens[:3]) for x in (cos_BTh, sin_BTh))
        position_BT = jnp.pad(position_BT, [(0, 0), (0, more)], mode="edge")
    local = functools.partial(_on_one_device, window=window, interpret=interpret)
    call = on_each_device(local, mesh, k_BTKH.shape[2], ROTATING)
    new = (q_BTNH, k_BTKH, v_BTKH, cos_BTh, sin_BTh, mask_BTT.astype(jnp.int32), position_BT)
    out_BTNH, k_BTKH = call(*new, prefix_k_BKHS, prefix_v_BKSH, prefix_length_B)
    return out_BTNH[:, :T], k_BTKH[:, :T]


def _on_one_device(
    q, k, v, cos, sin, mask, position, prefix_k, prefix_v, length_B, *, window, interpret
):
    """`fused_attention` of padded tokens."""
    B, T, N, H = q.shape
    K, S = k.shape[2], prefix_k.shape[3]
    turned = slots_last(H)
    if turned:
        prefix_v = prefix_v.swapaxes(2, 3)
    group, slots = N // K, min(_SLOTS, S)
    heads = _heads_at_once(K, H, slots * H * prefix_k.dtype.itemsize)
    tokens = _tokens_at_once(T, group)
    first_B = jnp.zeros_like(length_B)
    if window is not None:
        first_B = jnp.maximum(position.min(axis=1) - (window - 1), 0) // slots
    bounds = (length_B, first_B, jnp.maximum(-(-length_B // slots) - first_B, 0))
    out, rotated = pl.pallas_call(
        functools.partial(_kernel, group=group, slots=slots, window=window, turned=turned),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(bounds),
            grid=(B, T // tokens, K // heads, -(-S // slots)),
            scratch_shapes=_scratch(heads, group * tokens, H, q.dtype),
            **_blocks(heads, group, H, T, tokens, slots, mask.shape[0] == 1, turned),
        ),
        out_shape=[_result((B, T, N * H), q.dtype), jax.ShapeDtypeStruct((B, T, K * H), k.dtype)],
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
        *(x.reshape(B, T, -1) for x in (q, k, v)),
        cos,
        sin,
        mask,
        position[:, :, None],
        prefix_k,
        prefix_v,
    )
    return out.reshape(B, T, N, H), rotated.reshape(B, T, K, H)


def _result(shape: tuple[int, ...], dtype: Any) -> Any:
    """On the chip, where it is small: there the product behind does not wait for it."""
    is_small = math.prod(shape) * jnp.dtype(dtype).itemsize <= _RESULT_BYTES
    return pltpu.VMEM(shape, dtype) if is_small else jax.ShapeDtypeStruct(shape, dtype)


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
    """What the kernel sees at once: of rows b, tokens t, key heads h and slots s of the grid."""

    def of_new(width: int, rows: int, of_row: Any) -> pl.BlockSpec:
        return pl.BlockSpec((1, rows, width), lambda b, t, h, s, *_: (b, of_row(t), h))

    def block(b: Any, s: Any, first: Any, number: Any) -> Any:
        # Beyond the last block the same one again: what is there already is not read twice.
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


class _Refs(NamedTuple):
    """What the kernel reads and writes, in the order of `pallas_call`."""

    length: Any  # valid slots of each row
    first: Any  # block of slots that each row begins with
    number: Any  # of blocks that it reads
    q: Any
    k: Any
    v: Any
    cos: Any
    sin: Any
    mask: Any
    position: Any
    prefix_k: Any
    prefix_v: Any
    out: Any
    rotated: Any  # the keys
    top: Any  # the running softmax, as in `medusa_jax.nn.attention.PartialAttention`
    total: Any
    value: Any
    query: Any  # rotated; of all heads that share a key head, one group of tokens below the other

    def lanes(self, head: int) -> slice:
        """Where a head lies in the last axis of new tokens."""
        H = self.value.shape[2]
        return slice(head * H, (head + 1) * H)


def _kernel(*refs: Any, group: int, slots: int, window: int | None, turned: bool) -> None:
    """One block of slots for some heads of some tokens; the first adds the new tokens' keys."""
    r = _Refs(*refs)
    b, t, s = pl.program_id(0), pl.program_id(1), pl.program_id(3)

    @pl.when(s == 0)
    def _() -> None:
        _rotate(r, group, t)
        _begin_with_new_tokens(r, group)

    @pl.when(s < r.number[b])
    def _() -> None:
        _add_prefix(r, group, (r.first[b] + s) * slots, r.length[b], window, turned)

    @pl.when(s == pl.num_programs(3) - 1)
    def _() -> None:
        tokens = r.value.shape[1] // group
        for head in range(r.value.shape[0]):
            out = (r.value[head] / r.total[head]).astype(r.out.dtype)
            for n in range(group):
                own = out[n * tokens : (n + 1) * tokens]
                r.out[0, :, r.lanes(head * group + n)] = own


def _rotate(r: _Refs, group: int, block: jax.Array) -> None:
    """Queries of a block of tokens, and all new keys: `medusa_jax.nn.rope.apply_rope`."""
    tokens = r.q.shape[1]
    own = pl.ds(pl.multiple_of(block * tokens, _TOKENS), tokens)
    angles = r.cos[0], r.sin[0]
    of_queries = r.cos[0, own], r.sin[0, own]
    for head in range(r.value.shape[0]):
        r.rotated[0, :, r.lanes(head)] = _rotated(r.k[0, :, r.lanes(head)], *angles)
        for n in range(group):
            lanes = r.lanes(head * group + n)
            query = _rotated(r.q[0, :, lanes], *of_queries)
            r.query[head, n * tokens : (n + 1) * tokens] = query


def _rotated(x_TH: jax.Array, cos_Th: jax.Array, sin_Th: jax.Array) -> jax.Array:
    half = cos_Th.shape[1]
    x = x_TH.astype(jnp.float32)
    turned = jnp.concatenate([x[:, half:], x[:, :half]], axis=1)
    cos = jnp.concatenate([cos_Th, cos_Th], axis=1)
    sin = jnp.concatenate([-sin_Th, sin_Th], axis=1)
    return (x * cos + turned * sin).astype(x_TH.dtype)


def _begin_with_new_tokens(r: _Refs, group: int) -> None:
    seen = _of_group(r.mask[0], group) != 0
    for head in range(r.value.shape[0]):
        k, v = r.rotated[0, :, r.lanes(head)], r.v[0, :, r.lanes(head)]
        score = dot(r.query[head], k, 1, 1) * r.value.shape[2] ** -0.5
        score = jnp.where(seen, score, -jnp.inf)
        # Padding sees nothing; a finite floor keeps exp(-inf - top) at 0 instead of NaN.
        top = jnp.maximum(score.max(axis=1, keepdims=True), jnp.finfo(jnp.float32).min)
        weight = jnp.exp(score - top)
        r.top[head] = top
        r.total[head] = weight.sum(axis=1, keepdims=True)
        r.value[head] = dot(weight.astype(v.dtype), v, 1, 0)


def _add_prefix(
    r: _Refs, group: int, begin: jax.Array, length: jax.Array, window: int | None, turned: bool
) -> None:
    """The slots from `begin` on, as many as a block has, of which those below `length` count."""
    heads, rows, H = r.value.shape
    slot = begin + jax.lax.broadcasted_iota(jnp.int32, (rows, r.prefix_k.shape[3]), 1)
    seen = slot < length
    if window is not None:
        seen &= _of_group(r.position[0], group) - slot < window
    # Slots that hold nothing may hold NaN, which a weight of 0 does not take away.
    shape = r.prefix_v.shape[2:]
    is_valid = begin + jax.lax.broadcasted_iota(jnp.int32, shape, int(turned)) < length
    for head in range(heads):
        k, v = r.prefix_k[0, head], r.prefix_v[0, head]
        v = jnp.where(is_valid, v.astype(jnp.float32), 0.0).astype(v.dtype)
        score = dot(r.query[head].astype(k.dtype), k, 1, 0) * H**-0.5
        score = jnp.where(seen, score, -jnp.inf)
        before = r.top[head]
        top = jnp.maximum(before, score.max(axis=1, keepdims=True))
        weight, scale = jnp.exp(score - top), jnp.exp(before - top)
        r.top[head] = top
        r.total[head] = r.total[head] * scale + weight.sum(axis=1, keepdims=True)
        r.value[head] = r.value[head] * scale + dot(weight.astype(v.dtype), v, 1, int(turned))


def _of_group(x: jax.Array, group: int) -> jax.Array:
    return jnp.concatenate([x] * group, axis=0)


def dot(x: jax.Array, y: jax.Array, x_axis: int, y_axis: int) -> jax.Array:
    """The product of two matrices over an axis of each, in float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((x_axis,), (y_axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
