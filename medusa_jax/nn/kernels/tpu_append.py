"""Appending a step's tokens to a cache as one TPU kernel (Pallas, Mosaic).

XLA would write slots where they are next to each other in memory, which is not the layout that
attention reads, and turn the whole cache round at every step; of several rows it makes a scatter.
Here the one or two blocks that hold the new slots are read, mended and written in place.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import APPEND, on_each_device
from medusa_jax.nn.kernels.tpu_attention import slots_last

_LANES, _SUBLANES = 128, 16  # slots of a block of keys, and of values

# Most tokens of a row: they lie in two blocks at most.
MOST_TOKENS = _SUBLANES


def fused_append(
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    new_k_BAKH: jax.Array,
    new_v_BAKH: jax.Array,
    start_B: jax.Array,
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Writes A <= MOST_TOKENS tokens of every row from the row's own start.

    Args:
      k_BKHS: keys of the cache; the result takes its memory.
      v_BKSH: values, likewise.
      new_k_BAKH: keys of the new tokens, any float dtype.
      new_v_BAKH: values of the new tokens.
      start_B: int32; start + A <= S, or else the tokens are cut off.
      mesh: see `on_each_device`.
      interpret: computes the same without a TPU.

    Returns:
      Keys and values.
    """
    local = functools.partial(_on_one_device, interpret=interpret)
    call = on_each_device(local, mesh, k_BKHS.shape[1], APPEND)
    k_BKHS, v_BKSH = call(k_BKHS, v_BKSH, new_k_BAKH, new_v_BAKH, start_B)
    return k_BKHS, v_BKSH


def _on_one_device(k, v, new_k, new_v, start_B, *, interpret):
    """Keys and values in the order that they have in memory."""
    B, A = new_k.shape[:2]
    turned = slots_last(k.shape[2])
    keys, values = (0, 2, 3, 1), (0, 2, 1, 3)
    if turned:
        v, values = v.swapaxes(2, 3), keys
    buffers = (k, v)
    new = (
        new_k.transpose(keys).astype(k.dtype),
        new_v.transpose(values).astype(v.dtype),
    )
    parts = [_blocks(k, 3, A), _blocks(v, 3 if turned else 2, A)]
    specs, numbers = [spec for spec, _ in parts], tuple(number for _, number in parts)
    whole = [pl.BlockSpec((1, *x.shape[1:]), lambda b, i, start: (b, 0, 0, 0)) for x in new]
    k, v = pl.pallas_call(
        functools.partial(_kernel, numbers=numbers, num_tokens=A, turned=turned),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1, grid=(B, 2), in_specs=[*specs, *whole], out_specs=specs
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in buffers],
        input_output_aliases={1: 0, 2: 1},
        interpret=interpret,
        name="append_tokens",
    )(start_B, *buffers, *new)
    return k, v.swapaxes(2, 3) if turned else v


def _blocks(buffer: jax.Array, axis: int, num_tokens: int) -> tuple[pl.BlockSpec, Any]:
    """The blocks of slots, which are on `axis`, that some tokens touch; and their number."""
    slots = buffer.shape[axis]
    size = min(_LANES if axis == 3 else _SUBLANES, slots)

    def number(b: Any, i: Any, start: Any) -> Any:
        # The second block is the first again where nothing reaches further: then nothing is moved.
        last = jax.lax.div(start[b] + i * (num_tokens - 1), jnp.int32(size))
        return jnp.minimum(last, (slots - 1) // size)

    def index(b: Any, i: Any, start: Any) -> Any:
        place = number(b, i, start)
        return (b, 0, 0, place) if axis == 3 else (b, 0, place, 0)

    shape = [1, *buffer.shape[1:]]
    shape[axis] = size
    return pl.BlockSpec(tuple(shape), index), number


def _kernel(
    start_ref, k_ref, v_ref, new_k_ref, new_v_ref, k_out, v_out, *, numbers, num_tokens, turned
):
    """One block of keys and one of values of a row."""
    b, i = pl.program_id(0), pl.program_id(1)

    def mend(old_ref: Any, new_ref: Any, out_ref: Any, axis: int, number: Any) -> None:
        shape = old_ref.shape[2:]
        first = number(b, i, start_ref) * shape[axis] - start_ref[b]
        # Of each slot, the number of the token that belongs there.
        token = first + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        for head in range(old_ref.shape[1]):
            old, new = (ref[0, head].astype(jnp.float32) for ref in (old_ref, new_ref))
            for a in range(num_tokens):
                one = new[:, a : a + 1] if axis else new[a : a + 1]
                old = jnp.where(token == a, one, old)
            out_ref[0, head] = old.astype(out_ref.dtype)

    mend(k_ref, new_k_ref, k_out, 1, numbers[0])
    mend(v_ref, new_v_ref, v_out, int(turned), numbers[1])
