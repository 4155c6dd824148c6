"""Where activations and stacked layers lie on a mesh while the network runs."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medusa_jax.sharding import batch_sharding, param_shardings


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
        """Whether a device has a part of each matrix only."""
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
