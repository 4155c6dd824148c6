"""Where activations and stacked layers lie on a mesh while the network runs."""

import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medusa_jax.sharding import MATRICES, batch_sharding, key_name, param_shardings


@dataclasses.dataclass(frozen=True)
class Pin:
    """Keeps the residual stream of every row of a batch on the devices that have the row.

    The embedding is split along the features over "fsdp", the tokens along the batch. Left to
    itself the compiler prefers the features, and every device would hold all rows: it would gather
    activations instead of one matrix at a time.

    Attributes:
      mesh: from `make_mesh`.
    """

    mesh: Mesh

    def embedded(self, x_BTD: jax.Array) -> jax.Array:
        """What looking up tokens gives without gathering the table: a step in between."""
        spec = PartitionSpec("data", None, "fsdp")
        return jax.lax.with_sharding_constraint(x_BTD, NamedSharding(self.mesh, spec))

    def residual(self, x_BTD: jax.Array) -> jax.Array:
        """The residual stream where a layer begins or ends."""
        return jax.lax.with_sharding_constraint(x_BTD, batch_sharding(self.mesh, 3))

    @property
    def splits_parameters(self) -> bool:
        """Whether a device has only a part of each matrix."""
        return self.mesh.shape["fsdp"] * self.mesh.shape["tensor"] > 1

    def stack(self, layer: Any) -> Any:
        """Stacked parameters of layers, each split as in a layer of its own.

        Args:
          layer: the parameters of one kind of layer, stacked along a new first axis.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), layer)

        def pinned(x: jax.Array, sharding: NamedSharding) -> jax.Array:
            spec = PartitionSpec(None, *sharding.spec)
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

        return jax.tree.map(pinned, layer, param_shardings(self.mesh, shapes))

    def whole(self, layer: Any, dtype: Any) -> Any:
        """A layer's parameters as each device multiplies with them: gathered over "fsdp".

        The gradient of a gathered parameter is added up over the devices in the parameter's own
        dtype (float32 for whatever is trained), and each device keeps its part of the sum.

        Args:
          layer: its parameters, split as their records say; a leaf is found by its path.
          dtype: the compute dtype, in which matrices travel; the result has their own again, so
            that their gradients have it. Codes and scales travel as they are.
        """

        def gathered(path: Any, x: jax.Array, part: NamedSharding) -> jax.Array:
            spec = (None if entry == "fsdp" else entry for entry in part.spec)
            travels = dtype if key_name(path[-1]) in MATRICES else x.dtype
            return _gathered(x, travels, NamedSharding(self.mesh, PartitionSpec(*spec)), part)

        return jax.tree_util.tree_map_with_path(gathered, layer, param_shardings(self.mesh, layer))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(x: jax.Array, dtype: Any, whole: NamedSharding, part: NamedSharding) -> jax.Array:
    del part
    return jax.lax.with_sharding_constraint(x.astype(dtype), whole).astype(x.dtype)


def _forward(x: jax.Array, dtype: Any, whole: NamedSharding, part: NamedSharding) -> Any:
    return _gathered(x, dtype, whole, part), None


def _backward(dtype: Any, whole: NamedSharding, part: NamedSharding, _: None, grad: Any) -> Any:
    del dtype, whole
    return (jax.lax.with_sharding_constraint(grad, part),)


_gathered.defvjp(_forward, _backward)
