"""Layers of a network in training: compiled once instead of one by one, and what they keep.

A stack holds the same parameter of every layer along a new first axis. Where sliding windows differ
from layer to layer in a pattern, the layers of one period are one step of the scan.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

Remat = bool | Literal["nothing", "products", "offload"]

# Up to so many bytes of layers, a device that has them whole has room for a second copy.
_SMALL = 1 << 30

# What `jax.ad_checkpoint.checkpoint_name` calls the outputs of linear maps and of attention, and
# the input of a layer.
PRODUCT, INPUT = "product", "layer_input"


def policy(remat: Remat) -> Callable[..., Any] | None:
    """What a layer keeps for its backward pass besides its input.

    Args:
      remat: "nothing" or True: all is computed again; "products": the outputs of linear maps and of
        attention are kept, and what lies between them is computed again; "offload": all is computed
        again, and the input waits in the host's memory.
    """
    policies = jax.checkpoint_policies
    if remat == "products":
        return policies.save_only_these_names(PRODUCT)
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return policies.nothing_saveable


def worth_a_copy(backbone: Mapping[str, Any]) -> bool:
    """Whether to stack layers that have a gradient, on a device that has them whole.

    Unrolled, the gradient is compiled once per layer: this takes minutes, most of them for the
    random numbers of the adapters' dropout. Stacked, all layers are in memory twice, for which a
    large model may leave no room.

    Args:
      backbone: its parameters, as numbers, abstract or traced.
    """
    layers = [part for name, part in backbone.items() if name.startswith("layers_")]
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layers)) <= _SMALL


def period(windows: Sequence[int | None], num_layers: int) -> int:
    """After how many layers the windows repeat: 1 where all are alike, or the number of layers.

    Args:
      windows: of each layer; empty: there are none.
      num_layers: L.
    """
    every = tuple(windows) or (None,) * num_layers
    return next(
        size
        for size in range(1, num_layers + 1)
        if num_layers % size == 0 and every == every[:size] * (num_layers // size)
    )


def stacked(layers: Sequence[Any], size: int) -> tuple[Any, ...]:
    """Stacks of the layers' parameters.

    Args:
      layers: trees of the same shapes.
      size: of a period; divides their number L.

    Returns:
      One tree for each layer of a period, every array [L / size, ...].
    """
    return tuple(
        jax.tree.map(lambda *x: jnp.stack(x), *layers[first::size]) for first in range(size)
    )
