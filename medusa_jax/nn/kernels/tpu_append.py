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
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import tpu as pltpu

_LANES, _SUBLANES = 128, 16  # slots of a block of keys, and of values

# Most tokens of a row: they lie in two blocks at most.
MOST_TOKENS = _SUBLANES


def fused_append(
    k_BKHS: jax.Array,
    v_BKSH: jax.Array,
    new_k_BAKH: jax.Array,
    new_v_BAKH: jax.Array,
    start_B: jax.Array,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Writes A <= MOST_TOKENS tokens of every row from the row's own start.

    Args:
      k_BKHS: keys of the cache; the result takes its memory.
      v_BKSH: values, likewise.
      new_k_BAKH: keys of the new tokens, any float dtype.
      new_v_BAKH: values of the new tokens.
      start_B: int32; start + A <= S, or else the tokens are cut off.
      interpret: computes the same without a TPU.

    Returns:
      Keys and values.
    """
    dtype = k_BKHS.dtype
    new_k_BKHA = new_k_BAKH.transpose(0, 2, 3, 1).astype(dtype)
    new_v_BKAH = new_v_BAKH.swapaxes(1, 2).astype(dtype)
    call = _partitioned(interpret)
    k_BKHS, v_BKSH = call(k_BKHS, v_BKSH, new_k_BKHA, new_v_BKAH, start_B)
    return k_BKHS, v_BKSH


@functools.cache
def _partitioned(interpret: bool) -> Any:
    """The call on each device's own rows and heads."""
    local = functools.partial(_on_one_device, interpret=interpret)
    call = custom_partitioning(lambda *arrays: local(*arrays))

    def partition(mesh: Any, args: Any, result: Any) -> Any:
        shardings = jax.tree.map(lambda x: x.sharding, (result, args))
        return mesh, local, *shardings

    call.def_partition(
        partition,
        sharding_rule="b k h s, b k s h, b k h a, b k a h, b -> b k h s, b k s h",
        need_replication_factors=("h", "s", "a"),
    )
    return call


def _on_one_device(k, v, new_k, new_v, start_B, *, interpret):
    """`fused_append` in the layouts of the cache."""
    B, K, H, S = k.shape
    A = new_k.shape[3]
    lanes, rows = min(_LANES, S), min(_SUBLANES, S)

    def block(slots: int) -> Any:
        # The second block is the first again where nothing reaches further: then nothing is moved.
        def index(b: Any, i: Any, start: Any) -> Any:
            return jnp.minimum(
                jax.lax.div(start[b] + i * (A - 1), jnp.int32(slots)), (S - 1) // slots
            )

        return index

    of_k, of_v = block(lanes), block(rows)
    k_spec = pl.BlockSpec((1, K, H, lanes), lambda b, i, start: (b, 0, 0, of_k(b, i, start)))
    v_spec = pl.BlockSpec((1, K, rows, H), lambda b, i, start: (b, 0, of_v(b, i, start), 0))
    return pl.pallas_call(
        functools.partial(_kernel, of_k=of_k, of_v=of_v),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, 2),
            in_specs=[
                k_spec,
                v_spec,
                pl.BlockSpec((1, K, H, A), lambda b, i, start: (b, 0, 0, 0)),
                pl.BlockSpec((1, K, A, H), lambda b, i, start: (b, 0, 0, 0)),
            ],
            out_specs=[k_spec, v_spec],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        input_output_aliases={1: 0, 2: 1},
        interpret=interpret,
        name="append_tokens",
    )(start_B, k, v, new_k, new_v)


def _kernel(start_ref, k_ref, v_ref, new_k_ref, new_v_ref, k_out_ref, v_out_ref, *, of_k, of_v):
    """One block of keys and one of values of a row."""
    b, i = pl.program_id(0), pl.program_id(1)
    _, K, H, lanes = k_ref.shape
    rows, A = v_ref.shape[2], new_k_ref.shape[3]
    start = start_ref[b]
    # Of each slot, the number of the token that belongs there.
    first = of_k(b, i, start_ref) * lanes - start
    token = first + jax.lax.broadcasted_iota(jnp.int32, (H, lanes), 1)
    for head in range(K):
        old = k_ref[0, head].astype(jnp.float32)
        for a in range(A):
            column = new_k_ref[0, head, :, a : a + 1].astype(jnp.float32)
            old = jnp.where(token == a, column, old)
        k_out_ref[0, head] = old.astype(k_out_ref.dtype)
    first = of_v(b, i, start_ref) * rows - start
    token = first + jax.lax.broadcasted_iota(jnp.int32, (rows, H), 0)
    for head in range(K):
        old = v_ref[0, head].astype(jnp.float32)
        for a in range(A):
            row = new_v_ref[0, head, a : a + 1, :].astype(jnp.float32)
            old = jnp.where(token == a, row, old)
        v_out_ref[0, head] = old.astype(v_out_ref.dtype)
