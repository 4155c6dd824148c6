"""Puts arrays on devices; a process reads no more rows of a file than its own devices hold."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from medusa_jax.nn.quantize import int8_where_it_lies
from medusa_jax.sharding import param_shardings


def place(
    read: Callable[[slice | None], np.ndarray], shape: tuple[int, ...], sharding: Any
) -> jax.Array:
    """Puts an array on devices and waits: its host copy can go before the next one is made.

    Args:
      read: returns the rows of a slice, or the whole array for None.
      shape: of the whole array.
      sharding: `jax.sharding.Sharding`; None: the default device.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.block_until_ready(jax.device_put(read(None), sharding))
    return jax.block_until_ready(_place_own_part(read, shape, sharding))


def place_params(params: dict[str, Any], mesh: jax.sharding.Mesh | None) -> dict[str, Any]:
    """Puts numpy parameters on the default device (None), or on a mesh by `param_shardings`."""
    if mesh is None:
        return jax.block_until_ready(jax.device_put(params))
    return jax.tree.map(place_value, params, param_shardings(mesh, params))


def place_value(value: np.ndarray, sharding: Any) -> jax.Array:
    """Like `place`, for an array that is in memory."""
    return place(lambda rows: value if rows is None else value[rows], value.shape, sharding)


def kept(path: tuple[str, ...], value: jax.Array, quantize: str) -> Any:
    """A parameter as it stays on its devices: "int8" makes codes and scales of a matrix."""
    if quantize == "none" or path[-1] != "weight":
        return value
    return jax.block_until_ready(int8_where_it_lies(value))


def _place_own_part(
    read: Callable[[slice | None], np.ndarray], shape: tuple[int, ...], sharding: Any
) -> jax.Array:
    spans = [
        index[0].indices(shape[0])
        for index in sharding.addressable_devices_indices_map(shape).values()
    ]
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    part = read(slice(first, last))

    def shard(index):
        start, stop, _ = index[0].indices(shape[0])
        return part[(slice(start - first, stop - first), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, shard)
