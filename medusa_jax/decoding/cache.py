"""Keys and values of committed tokens: one buffer per layer, a length per row."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.gpu import has_triton
from medusa_jax.nn.kernels import gpu_append, gpu_attention, tpu_append
from medusa_jax.nn.llama import LayersKV


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Committed keys and values.

    Separate buffers per layer, in the layouts that the attention's two matrix products read in
    place (on a CPU, keys with slots last are three times as fast as keys with slots first), and
    that a `lax.while_loop` updates without a copy.

    Attributes:
      layers: per layer keys [B, K, H, S] and values [B, K, S, H]; slot s holds position s.
      length_B: int32, valid slots of each row; slots beyond hold garbage.
    """

    layers: LayersKV
    length_B: jax.Array

    @property
    def capacity(self) -> int:
        """S, slots per row."""
        return self.layers[0][1].shape[2]


def storage_dtype(dtype: str, platform: str) -> str:
    """What keys and values computed in `dtype` are kept in: on a CPU always float32.

    XLA's CPU backend writes one token into a bfloat16 buffer by widening, rounding and copying the
    whole buffer, and reads it no faster than float32.
    """
    return "float32" if platform == "cpu" else dtype


def num_slots(capacity: int, dtype: Any) -> int:
    """Slots of a cache with room for `capacity` tokens.

    If the slots did not fill its registers, a TPU would keep them in another layout than attention
    reads, and transpose the cache at every call; a GPU without kernels would pad a copy for its
    products. On CPUs, where every slot costs, no cache is kept in 16 bits.
    """
    return -(-capacity // 128) * 128 if jnp.dtype(dtype).itemsize == 2 else capacity


def empty_cache(config: LlamaConfig, batch: int, capacity: int, dtype: Any) -> KVCache:
    """A cache for `batch` rows of `capacity` slots or more, none valid, kept in `dtype`."""
    heads, dim = config.num_kv_heads, config.head_dim
    capacity = num_slots(capacity, dtype)
    layers = tuple(
        (
            jnp.zeros((batch, heads, dim, capacity), dtype),
            jnp.zeros((batch, heads, capacity, dim), dtype),
        )
        for _ in range(config.num_layers)
    )
    return KVCache(layers, jnp.zeros((batch,), jnp.int32))


def append(
    cache: KVCache,
    new: LayersKV,
    num_B: jax.Array,
    mesh: Mesh | None = None,
    nodes_BA: jax.Array | None = None,
) -> KVCache:
    """Appends tokens to every row; the first num_B of them count.

    The rest is written after the row's new length, where nothing reads it and the next append
    overwrites it. The caller keeps length + A <= capacity.

    Args:
      cache: of a batch.
      new: T tokens of every row.
      num_B: int32.
      mesh: what heads are spread over; None: they are on one device.
      nodes_BA: int32, those of the T tokens to append, in this order; None: all, A = T.
    """
    B, T = new[0][0].shape[:2]
    every_BA = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    index_BA = every_BA if nodes_BA is None else nodes_BA
    default = _append if nodes_BA is None else _append_chosen
    kernels = {}
    if index_BA.shape[1] <= tpu_append.MOST_TOKENS:
        kernels["tpu"] = functools.partial(tpu_append.fused_append, mesh=mesh)
        if has_triton() and gpu_attention.supports(*cache.layers[0][0].shape[2:]):
            kernels["cuda"] = functools.partial(gpu_append.fused_append, mesh=mesh)
    layers = tuple(
        jax.lax.platform_dependent(
            *old, *added, index_BA, cache.length_B, default=default, **kernels
        )
        for old, added in zip(cache.layers, new, strict=True)
    )
    return KVCache(layers, cache.length_B + num_B)


def of_prompts(new: LayersKV, length_B: jax.Array, dtype: Any) -> KVCache:
    """A cache of prompts alone: their keys and values, each [B, T, K, H], kept in `dtype`."""
    layers = tuple((_keys(k).astype(dtype), _values(v).astype(dtype)) for k, v in new)
    return KVCache(layers, length_B)


def insert(cache: KVCache, rows: KVCache, slot_B: jax.Array) -> KVCache:
    """Puts rows in the place of others.

    Args:
      cache: of a batch.
      rows: B' rows, with at most as many slots each.
      slot_B: int32 [B'], different rows of the batch.
    """

    def put(buffer: jax.Array, new: jax.Array) -> jax.Array:
        return buffer.at[slot_B, :, : new.shape[2], : new.shape[3]].set(new.astype(buffer.dtype))

    layers = jax.tree.map(put, cache.layers, rows.layers)
    return KVCache(layers, cache.length_B.at[slot_B].set(rows.length_B))


def resized(cache: KVCache, capacity: int) -> KVCache:
    """The same rows with `capacity` slots or a few more; where that is fewer, the last are cut."""
    slots = num_slots(capacity, cache.layers[0][0].dtype)
    more = max(0, slots - cache.capacity)
    layers = tuple(
        (
            jnp.pad(k, ((0, 0), (0, 0), (0, 0), (0, more)))[..., :slots],
            jnp.pad(v, ((0, 0), (0, 0), (0, more), (0, 0)))[:, :, :slots],
        )
        for k, v in cache.layers
    )
    return KVCache(layers, cache.length_B)


def _keys(k_BTKH: jax.Array) -> jax.Array:
    return k_BTKH.transpose(0, 2, 3, 1)


def _values(v_BTKH: jax.Array) -> jax.Array:
    return v_BTKH.swapaxes(1, 2)


def _append_chosen(
    k: jax.Array,
    v: jax.Array,
    new_k: jax.Array,
    new_v: jax.Array,
    nodes_BA: jax.Array,
    start_B: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Some of the new tokens of one layer."""
    index = nodes_BA[:, :, None, None]
    new_k, new_v = (jnp.take_along_axis(x, index, axis=1, mode="clip") for x in (new_k, new_v))
    return _append(k, v, new_k, new_v, nodes_BA, start_B)


def _append(
    k: jax.Array, v: jax.Array, new_k: jax.Array, new_v: jax.Array, _: jax.Array, start_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """All new tokens of one layer."""
    return _write(k, _keys(new_k), start_B, 3), _write(v, _values(new_v), start_B, 2)


def _write(buffer: jax.Array, block: jax.Array, start_B: jax.Array, axis: int) -> jax.Array:
    """Writes a block of consecutive slots (on `axis`) of every row from the row's own start."""

    def write_row(row, update, start):
        return jax.lax.dynamic_update_slice_in_dim(row, update, start, axis - 1)

    return jax.vmap(write_row)(buffer, block.astype(buffer.dtype), start_B)
