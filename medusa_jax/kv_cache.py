"""Keys and values of committed tokens: one buffer per layer, a length per row."""

import dataclasses

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig

# Keys and values of new tokens, one pair per layer, each [B, T, K, H].
NewKV = tuple[tuple[jax.Array, jax.Array], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Committed keys and values.

    Separate buffers per layer, heads before slots: the attention's matrix products read them in
    place, and a `lax.while_loop` updates them without a copy.

    Attributes:
      layers: per layer (keys, values), each [B, K, S, H]; slot s holds position s.
      length_B: int32, valid slots of each row; slots beyond hold garbage.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    length_B: jax.Array

    @property
    def capacity(self) -> int:
        """S, slots per row."""
        return self.layers[0][0].shape[2]


def empty_cache(config: LlamaConfig, batch: int, capacity: int, dtype) -> KVCache:
    """A cache of `capacity` slots for `batch` rows, none of them valid."""
    shape = (batch, config.num_kv_heads, capacity, config.head_dim)
    layers = tuple(
        (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers)
    )
    return KVCache(layers, jnp.zeros((batch,), jnp.int32))


def _write(buffer_BKSH: jax.Array, rows_BTKH: jax.Array, start_B: jax.Array) -> jax.Array:
    """Writes T consecutive slots of every row from its own start."""

    def write_row(buffer_KSH, rows_TKH, start):
        zero = jnp.zeros((), jnp.int32)
        return jax.lax.dynamic_update_slice(
            buffer_KSH, rows_TKH.swapaxes(0, 1).astype(buffer_KSH.dtype), (zero, start, zero)
        )

    return jax.vmap(write_row)(buffer_BKSH, rows_BTKH, start_B)


def append(cache: KVCache, new: NewKV, num_B: jax.Array) -> KVCache:
    """Appends T new tokens to every row, of which the first num_B count.

    The rest is written behind the row's new length, where nothing reads it and the next append
    overwrites it. The caller keeps length + T <= capacity.
    """
    layers = tuple(
        (_write(k, k_new, cache.length_B), _write(v, v_new, cache.length_B))
        for (k, v), (k_new, v_new) in zip(cache.layers, new, strict=True)
    )
    return KVCache(layers, cache.length_B + num_B)


def select(new: NewKV, nodes_BD: jax.Array) -> NewKV:
    """Picks tokens nodes_BD (int32 [B, D]) of every row out of T new ones."""
    index = nodes_BD[:, :, None, None]
    return tuple(
        (jnp.take_along_axis(k, index, axis=1), jnp.take_along_axis(v, index, axis=1))
        for k, v in new
    )
