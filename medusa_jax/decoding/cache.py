"""Keys and values of committed tokens: one buffer per layer, a length per row."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig
from medusa_jax.nn.llama import LayersKV


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Committed keys and values.

    Separate buffers per layer, in the layouts that the attention's two matrix products read in
    place (on a CPU, keys with slots last are three times as fast as keys with slots first), and
    that a `lax.while_loop` updates without a copy.

    Attributes:
      layers: per layer keys [B, K, H, S] and values [B, K, S, H] in their `storage_dtype`; slot s
        holds position s.
      length_B: int32, valid slots of each row; slots beyond hold garbage.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    length_B: jax.Array

    @property
    def capacity(self) -> int:
        """S, slots per row."""
        return self.layers[0][1].shape[2]


def storage_dtype(dtype: Any) -> Any:
    """What keys and values computed in `dtype` are kept in: on a CPU never bfloat16.

    XLA's CPU backend writes one token into a bfloat16 buffer by widening, rounding and copying the
    whole buffer, and reads it no faster than float32.
    """
    widened = dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return jnp.dtype(jnp.float32 if widened else dtype)


def empty_cache(config: LlamaConfig, batch: int, capacity: int, dtype: Any) -> KVCache:
    """A cache of `capacity` slots for `batch` rows, none of them valid, for this compute dtype."""
    heads, dim, dtype = config.num_kv_heads, config.head_dim, storage_dtype(dtype)
    layers = tuple(
        (
            jnp.zeros((batch, heads, dim, capacity), dtype),
            jnp.zeros((batch, heads, capacity, dim), dtype),
        )
        for _ in range(config.num_layers)
    )
    return KVCache(layers, jnp.zeros((batch,), jnp.int32))


def _write(buffer: jax.Array, block: jax.Array, start_B: jax.Array, axis: int) -> jax.Array:
    """Writes a block of consecutive slots (on `axis`) of every row from the row's own start."""

    def write_row(row, update, start):
        return jax.lax.dynamic_update_slice_in_dim(row, update, start, axis - 1)

    return jax.vmap(write_row)(buffer, block.astype(buffer.dtype), start_B)


def append(cache: KVCache, new: LayersKV, num_B: jax.Array) -> KVCache:
    """Appends T new tokens to every row, of which the first num_B count.

    The rest is written behind the row's new length, where nothing reads it and the next append
    overwrites it. The caller keeps length + T <= capacity.
    """
    layers = tuple(
        (
            _write(k, k_new.transpose(0, 2, 3, 1), cache.length_B, 3),
            _write(v, v_new.swapaxes(1, 2), cache.length_B, 2),
        )
        for (k, v), (k_new, v_new) in zip(cache.layers, new, strict=True)
    )
    return KVCache(layers, cache.length_B + num_B)


def select(new: LayersKV, nodes_BD: jax.Array) -> LayersKV:
    """Picks tokens nodes_BD (int32 [B, D]) of every row out of T new ones."""
    index = nodes_BD[:, :, None, None]
    return tuple(
        (jnp.take_along_axis(k, index, axis=1), jnp.take_along_axis(v, index, axis=1))
        for k, v in new
    )
