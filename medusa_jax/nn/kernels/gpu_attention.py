"""Attention over a committed prefix and among new tokens as one GPU kernel (Pallas, Triton).

The twin of `medusa_jax.nn.kernels.tpu_attention`: scores never leave the chip, only slots that some
token of the row sees are read, and the running softmax is float32. A GPU needs more programs than
there are key heads: each takes some rows of a head's queries and a share of its valid slots, and
their results are merged as in `medusa_jax.nn.attention`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import ATTENTION, on_each_device

_ROWS = 64  # queries of one key head, in one program
_LEAST = 16  # size of each side of a product
_SLOTS = 64  # of the prefix, at once; as many new tokens
_PROGRAMS = 128  # that keep a large GPU busy, one for each of its processors
_SLOTS_OF_A_SHARE = 256  # fewer are not worth a program of their own
_SUPPORTED_HEADS = (16, 32, 64, 128)  # with more a program has too few registers


def supports(head_dim: int, slots: int) -> bool:
    """Whether the kernel takes such arrays: its products have sides that are powers of two."""
    return head_dim in _SUPPORTED_HEADS and slots % _LEAST == 0


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

    Arguments and result are those of `medusa_jax.nn.kernels.tpu_attention.fused_attention`, of
    sizes that `supports` accepts.
    """
    local = functools.partial(_on_one_device, window=window, interpret=interpret)
    call = on_each_device(local, mesh, k_BTKH.shape[2], ATTENTION)
    new = (q_BTNH, k_BTKH, v_BTKH, mask_BTT, position_BT)
    return call(*new, prefix_k_BKHS, prefix_v_BKSH, prefix_length_B)


@functools.partial(jax.jit, static_argnames=("window", "interpret"))  # layers share one trace
def _on_one_device(q, k, v, mask, position, prefix_k, prefix_v, length_B, *, window, interpret):
    # Imported here, as JAX is going to remove it: then only GPUs lose (`medusa_jax.gpu`).
    from jax.experimental.pallas import triton as plgpu

    B, T, N, H = q.shape
    K, S = k.shape[2], prefix_k.shape[3]
    group, rows = N // K, T * N // K
    tile = min(_ROWS, max(_LEAST, pl.next_power_of_2(rows)))
    tokens = min(_SLOTS, max(_LEAST, pl.next_power_of_2(T)))
    more, more_tokens = -rows % tile, -T % tokens
    # Row t G + g of a key head: its g-th query of token t.
    q = q.reshape(B, T, K, group, H).swapaxes(1, 2).reshape(B * K, rows, H)
    q = jnp.pad(q, [(0, 0), (0, more), (0, 0)])
    k, v = (jnp.pad(x, [(0, 0), (0, more_tokens), (0, 0), (0, 0)]) for x in (k, v))
    mask = jnp.pad(mask.astype(jnp.int8), [(0, 0), (0, 0), (0, more_tokens)])
    mask, place = (jnp.repeat(x, group, axis=1) for x in (mask, position))
    mask = jnp.pad(mask, [(0, 0), (0, more), (0, 0)], mode="edge")
    place = jnp.pad(place, [(0, 0), (0, more)], mode="edge")
    begin_B = jnp.zeros_like(length_B)
    if window is not None:
        begin_B = jnp.maximum(position.min(axis=1) - (window - 1), 0)
    tiles = (rows + more) // tile
    shares = max(1, min(-(-_PROGRAMS // (B * K * tiles)), S // _SLOTS_OF_A_SHARE))
    parts = pl.pallas_call(
        functools.partial(
            _kernel, slots=math.gcd(_SLOTS, S), tokens=tokens, shares=shares, window=window
        ),
        grid=(tiles, B * K, shares),
        **_blocks(K, tile, T + more_tokens, H, S, mask.shape[0] == 1),
        out_shape=[
            jax.ShapeDtypeStruct((shares, B * K, rows + more, *last), jnp.float32)
            for last in ((), (), (H,))
        ],
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="tree_attention",
    )(
        begin_B,
        length_B,
        q,
        k,
        v,
        mask,
        place,
        prefix_k.reshape(B * K, H, S),
        prefix_v.reshape(B * K, S, H),
    )
    out = _merged(*parts)[:, :rows].astype(q.dtype)
    return out.reshape(B, K, T, group, H).swapaxes(1, 2).reshape(B, T, N, H)


def _merged(top, total, value) -> jax.Array:
    """The shares of one softmax put together."""
    scale = jnp.exp(top - top.max(axis=0, keepdims=True))
    return (value * scale[..., None]).sum(axis=0) / (total * scale).sum(axis=0)[..., None]


def _blocks(K: int, tile: int, T: int, H: int, S: int, one_mask: bool) -> dict[str, Any]:
    """What a program of the kernel sees: tile r of the rows, head n of all, share i."""

    def row(n: Any) -> Any:
        return jax.lax.div(n, jnp.int32(K))

    of_row = pl.BlockSpec((None,), lambda r, n, i: (row(n),))
    new = pl.BlockSpec(
        (None, T, None, H), lambda r, n, i: (row(n), 0, jax.lax.rem(n, jnp.int32(K)), 0)
    )
    number = pl.BlockSpec((None, None, tile), lambda r, n, i: (i, n, r))
    return {
        "in_specs": [
            of_row,
            of_row,
            pl.BlockSpec((None, tile, H), lambda r, n, i: (n, r, 0)),
            new,
            new,
            pl.BlockSpec((None, tile, T), lambda r, n, i: (0 if one_mask else row(n), r, 0)),
            pl.BlockSpec((None, tile), lambda r, n, i: (row(n), r)),
            pl.BlockSpec((None, H, S), lambda r, n, i: (n, 0, 0)),
            pl.BlockSpec((None, S, H), lambda r, n, i: (n, 0, 0)),
        ],
        "out_specs": [
            number,
            number,
            pl.BlockSpec((None, None, tile, H), lambda r, n, i: (i, n, r, 0)),
        ],
    }


def _kernel(
    begin_ref, length_ref, q_ref, k_ref, v_ref, mask_ref, place_ref, prefix_k_ref, prefix_v_ref,
    top_ref, total_ref, value_ref, *, slots, tokens, shares, window,
):  # fmt: skip
    """A share of the prefix for some rows of a key head; the last also takes the new tokens."""
    from jax.experimental.pallas import triton as plgpu  # see above

    share = pl.program_id(2)
    begin, length, q = begin_ref[...], length_ref[...], q_ref[...]

    def of_prefix(block: Any, part: Any) -> Any:
        slot = block * slots + jnp.arange(slots, dtype=jnp.int32)
        # Slots that are not valid may hold NaN, which a weight of 0 does not remove.
        valid = slot < length
        at = pl.ds(block * slots, slots)
        k = plgpu.load(prefix_k_ref.at[:, at], mask=valid[None, :], other=0)
        v = plgpu.load(prefix_v_ref.at[at, :], mask=valid[:, None], other=0)
        seen = jnp.broadcast_to(valid[None, :], (q.shape[0], slots))
        if window is not None:
            seen &= place_ref[...][:, None] - slot[None, :] < window
        return _add(part, q.astype(k.dtype), k, v, seen, 0)

    def of_new(block: Any, part: Any) -> Any:
        at = pl.ds(block * tokens, tokens)
        return _add(part, q, k_ref[at, :], v_ref[at, :], mask_ref[:, at] != 0, 1)

    first, last = jax.lax.div(begin, slots), pl.cdiv(length, slots)
    each = pl.cdiv(jnp.maximum(last - first, 0), shares)
    first = first + share * each
    rows, H = q.shape
    lowest = jnp.finfo(jnp.float32).min
    part = (
        jnp.full((rows,), lowest, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros((rows, H), jnp.float32),
    )
    part = jax.lax.fori_loop(first, jnp.minimum(first + each, last), of_prefix, part)
    is_last = jax.lax.div(share + 1, shares)
    part = jax.lax.fori_loop(0, is_last * (k_ref.shape[0] // tokens), of_new, part)
    top_ref[...], total_ref[...], value_ref[...] = part


def _add(part: Any, q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array, axis: int) -> Any:
    """Keys, whose `axis` holds H, and values added to a running softmax."""
    before, total, value = part
    score = jnp.where(seen, _dot(q, k, axis) * q.shape[1] ** -0.5, -jnp.inf)
    top = jnp.maximum(before, score.max(axis=1))
    weight, scale = jnp.exp(score - top[:, None]), jnp.exp(before - top)
    value = value * scale[:, None] + _dot(weight.astype(v.dtype), v, 0)
    return top, total * scale + weight.sum(axis=1), value


def _dot(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """x [R, C] times y, whose `axis` is C: float32."""
    return jax.lax.dot_general(
        x,
        y,
        (((1,), (axis,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
