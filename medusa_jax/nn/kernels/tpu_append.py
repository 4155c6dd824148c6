"""Appending a step's tokens to a cache as one TPU kernel (Pallas, Mosaic).

XLA would want slots next to each other in memory to write them, which is not the layout that
attention reads, and transpose the whole cache at every step; for several rows it makes a scatter.
Here the one or two blocks that hold the new slots are read, mended and written in place. Products
of zeros and ones with all tokens of the step choose those that are appended.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import FLAT_APPEND, on_each_device
from medusa_jax.nn.kernels.tpu_attention import slots_last
from medusa_jax.nn.kernels.tpu_softmax import dot

_LANES, _SUBLANES = 128, 16  # slots of a block of keys, and of values

# Most tokens that a row gets: so they lie in two blocks at most.
MOST_TOKENS = _SUBLANES
_LEAST = 8  # size of each side of a product


def fused_append(
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    new_k_BTKH: jax.Array,
    new_v_BTKH: jax.Array,
    nodes_BA: jax.Array,
    start_B: jax.Array,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Writes A <= MOST_TOKENS of T tokens of every row from the row's own start.

    Args:
      k_BKHS: keys of the cache; the result takes its memory.
      v_BKSH: values, likewise.
      new_k_BTKH: finite keys of new tokens, any float dtype.
      new_v_BTKH: their values.
      nodes_BA: int32, which of them are written, in this order.
      start_B: int32; start + A <= S, or else the tokens are cut off.
      mesh: see `on_each_device`.
      interpret: computes the same without a TPU.

    Returns:
      Keys and values.
    """
    local = functools.partial(_on_one_device, interpret=interpret)
    call = on_each_device(local, mesh, k_BKHS.shape[1], FLAT_APPEND)
    new = (x.reshape(*x.shape[:2], -1) for x in (new_k_BTKH, new_v_BTKH))
    k_BKHS, v_BKSH = call(k_BKHS, v_BKSH, *new, nodes_BA, start_B)
    return k_BKHS, v_BKSH


def _on_one_device(k, v, new_k, new_v, nodes_BA, start_B, *, interpret):
    """Keys and values in the order that they have in memory."""
    B, A = nodes_BA.shape
    turned = slots_last(k.shape[2])
    if turned:
        v = v.swapaxes(2, 3)
    buffers = (k, v)
    new = (new_k, new_v)
    parts = [_blocks(k, 3, A), _blocks(v, 3 if turned else 2, A)]
    specs, numbers = [spec for spec, _ in parts], tuple(number for _, number in parts)
    whole = [pl.BlockSpec((1, *x.shape[1:]), lambda b, i, *_: (b, 0, 0)) for x in new]
    k, v = pl.pallas_call(
        functools.partial(_kernel, numbers=numbers, num_tokens=A, turned=turned),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2, grid=(B, 2), in_specs=[*specs, *whole], out_specs=specs
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in buffers],
        input_output_aliases={2: 0, 3: 1},
        interpret=interpret,
        name="append_tokens",
    )(start_B, nodes_BA, *buffers, *new)
    return k, v.swapaxes(2, 3) if turned else v


def _blocks(buffer: jax.Array, axis: int, num_tokens: int) -> tuple[pl.BlockSpec, Any]:
    """The blocks of slots (on `axis`) that some tokens touch, and their number."""
    slots = buffer.shape[axis]
    size = min(_LANES if axis == 3 else _SUBLANES, slots)

    def number(b: Any, i: Any, start: Any) -> Any:
        # The second block is the first again where nothing reaches further: then nothing is moved.
        last = jax.lax.div(start[b] + i * (num_tokens - 1), jnp.int32(size))
        return jnp.minimum(last, (slots - 1) // size)

    def index(b: Any, i: Any, start: Any, _: Any) -> Any:
        place = number(b, i, start)
        return (b, 0, 0, place) if axis == 3 else (b, 0, place, 0)

    shape = [1, *buffer.shape[1:]]
    shape[axis] = size
    return pl.BlockSpec(tuple(shape), index), number


def _kernel(
    start_ref, node_ref, k_ref, v_ref, new_k_ref, new_v_ref, k_out, v_out, *,
    numbers, num_tokens, turned,
):  # fmt: skip
    """One block of keys and one of values of a row; the second of either may be the first again."""
    b, i = pl.program_id(0), pl.program_id(1)
    start = start_ref[b]

    def mend(old_ref: Any, new_ref: Any, out_ref: Any, axis: int, number: Any) -> None:
        place, size = number(b, i, start_ref), old_ref.shape[2 + axis]

        @pl.when((i == 0) | (place != number(b, 0, start_ref)))
        def _() -> None:
            token = jax.lax.broadcasted_iota(jnp.int32, _line(size, axis), axis)
            token += place * size - start
            node = jnp.full(token.shape, -1, jnp.int32)
            for a in range(num_tokens):
                node = jnp.where(token == a, node_ref[b, a], node)
            _mend(old_ref, new_ref, out_ref, axis, node)

    mend(k_ref, new_k_ref, k_out, 1, numbers[0])
    mend(v_ref, new_v_ref, v_out, int(turned), numbers[1])


def _mend(old_ref: Any, new_ref: Any, out_ref: Any, axis: int, node: jax.Array) -> None:
    """A block whose slots (on `axis`) get the tokens `node`; where that is -1 it stays as it is."""
    H, T = old_ref.shape[3 - axis], new_ref.shape[1]
    T = T if T > 1 else _LEAST
    every = jax.lax.broadcasted_iota(jnp.int32, _line(T, 1 - axis), 1 - axis)
    is_chosen = (every == node).astype(new_ref.dtype)
    for head in range(old_ref.shape[1]):
        new = new_ref[0, :, head * H : (head + 1) * H]
        new = jnp.broadcast_to(new, (T, H))  # a lone token; its copies are never chosen
        rows = dot(new, is_chosen, 0, 0) if axis else dot(is_chosen, new, 1, 0)
        old = old_ref[0, head].astype(jnp.float32)
        out_ref[0, head] = jnp.where(node < 0, old, rows).astype(out_ref.dtype)


def _line(size: int, axis: int) -> tuple[int, int]:
    return (1, size) if axis else (size, 1)
