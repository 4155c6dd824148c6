"""Appending a step's tokens to a cache as one GPU kernel (Pallas, Triton).

XLA would choose the cache's layout to suit what it writes, not what attention reads, and transpose
all keys at every step; for several rows it makes a scatter. Here the new slots are written in
place, and nothing else is touched.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.sharding import Mesh

from medusa_jax.nn.kernels.on_mesh import APPEND, on_each_device


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
    """Writes A of T tokens of every row from the row's own start.

    Arguments and results are those of `medusa_jax.nn.kernels.tpu_append.fused_append`, with head
    sizes that `medusa_jax.nn.kernels.gpu_attention.supports` accepts.
    """
    local = functools.partial(_on_one_device, interpret=interpret)
    call = on_each_device(local, mesh, k_BKHS.shape[1], APPEND)
    k_BKHS, v_BKSH = call(k_BKHS, v_BKSH, new_k_BTKH, new_v_BTKH, nodes_BA, start_B)
    return k_BKHS, v_BKSH


@functools.partial(jax.jit, static_argnames="interpret")  # layers share one trace
def _on_one_device(k, v, new_k, new_v, nodes_BA, start_B, *, interpret):
    # Imported here, as JAX is going to remove it: then only GPUs lose (`medusa_jax.gpu`).
    from jax.experimental.pallas import triton as plgpu

    B, K, H, S = k.shape
    A = nodes_BA.shape[1]
    more = pl.next_power_of_2(A) - A
    nodes_BA = jnp.pad(nodes_BA, [(0, 0), (0, more)])
    new = pl.BlockSpec((None, new_k.shape[1], None, H), lambda b, n: (b, 0, n, 0))
    cache = [
        pl.BlockSpec((None, None, H, S), lambda b, n: (b, n, 0, 0)),
        pl.BlockSpec((None, None, S, H), lambda b, n: (b, n, 0, 0)),
    ]
    k, v = pl.pallas_call(
        functools.partial(_kernel, num_tokens=A),
        grid=(B, K),
        in_specs=[
            pl.BlockSpec((None,), lambda b, n: (b,)),
            pl.BlockSpec((None, A + more), lambda b, n: (b, 0)),
            *(new, new),
            *cache,
        ],
        out_specs=cache,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        input_output_aliases={4: 0, 5: 1},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="append_tokens",
    )(start_B, nodes_BA, new_k, new_v, k, v)
    return k, v


def _kernel(start_ref, node_ref, new_k_ref, new_v_ref, k_ref, v_ref, k_out, v_out, *, num_tokens):
    """One head of a row."""
    from jax.experimental.pallas import triton as plgpu  # see above

    del k_ref, v_ref  # the results' own memory
    node = node_ref[...]
    token = jnp.arange(len(node), dtype=jnp.int32)
    slot = start_ref[...] + token
    counts = (token < num_tokens) & (slot < v_out.shape[0])

    def chosen(new: Any) -> jax.Array:
        shape = len(node), new.shape[1]
        lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        return plgpu.load(new.at[jnp.broadcast_to(node[:, None], shape), lane])

    def put(out: Any, new: jax.Array, axis: int) -> None:
        shape = new.shape
        place, fits = (
            jnp.broadcast_to(jnp.expand_dims(x, 1 - axis), shape) for x in (slot, counts)
        )
        other = jax.lax.broadcasted_iota(jnp.int32, shape, 1 - axis)
        index = (other, place) if axis else (place, other)
        plgpu.store(out.at[index], new.astype(out.dtype), mask=fits)

    put(k_out, chosen(new_k_ref).T, 1)
    put(v_out, chosen(new_v_ref), 0)
