"""A loss on a mesh: every device computes with its own rows of the batch and with whole matrices.

Left to itself the compiler gathers a matrix wherever it is used, and adds up its gradient over the
devices wherever there is one: in a loop over blocks of time once per block. Here both happen once.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from medusa_jax.sharding import MATRICES, key_name, param_shardings

_ROW_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where the rows of a batch are (jit static).

    The axis "tensor" stays the compiler's: a matrix is whole but for the part that this axis has
    cut off.

    Attributes:
      mesh: from `medusa_jax.mesh.make_mesh`; None: one device has everything.
      dtype: the compute dtype, in which matrices are gathered; None: their own. Gradients keep the
        dtype of the parameter: they are added up in it, on a device and over the devices.
    """

    mesh: Mesh | None = None
    dtype: str | None = None

    def run(self, function: Callable[..., Any], wanted: Any, fixed: Any, rows: Any) -> Any:
        """`function` on every device.

        Args:
          function: (wanted, fixed, rows) -> (sums, gradients of `wanted`, a tree of more rows), of
            a device's own rows and of whole matrices.
          wanted: tree of parameters; a leaf is found by its path, as in `param_shardings`.
          fixed: likewise, without gradients.
          rows: tree of [B, ...]; "data" times "fsdp" divides B.

        Returns:
          Sums and gradients over all rows, the latter in the parameters' shards; and the tree.
        """
        if self.mesh is None:
            return function(self._rounded(wanted), self._rounded(fixed), rows)
        specs = [_specs(self.mesh, tree) for tree in (wanted, fixed)]

        def local(wanted: Any, fixed: Any, rows: Any) -> Any:
            whole = (self._gathered(*pair) for pair in zip((wanted, fixed), specs, strict=True))
            sums, grads, more = function(*whole, rows)
            grads = jax.tree.map(_scattered, grads, specs[0]) if grads is not None else None
            return jax.lax.psum(sums, _ROW_AXES), grads, more

        batch = PartitionSpec(_ROW_AXES)
        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(*specs, batch),
            out_specs=(PartitionSpec(), specs[0], batch),
            axis_names=set(_ROW_AXES),
            check_vma=False,
        )(wanted, fixed, rows)

    def _rounded(self, params: Any) -> Any:
        """Matrices in the compute dtype; biases and scalars as they are."""

        def rounded(path: Any, x: Any) -> Any:
            is_matrix = path and key_name(path[-1]) in MATRICES
            return x.astype(self.dtype) if self.dtype and is_matrix else x

        return jax.tree_util.tree_map_with_path(rounded, params)

    def _gathered(self, params: Any, specs: Any) -> Any:
        def gathered(x: jax.Array, spec: PartitionSpec) -> jax.Array:
            axis = _split_axis(spec)
            return x if axis is None else jax.lax.all_gather(x, "fsdp", axis=axis, tiled=True)

        return jax.tree.map(gathered, self._rounded(params), specs)


def _specs(mesh: Mesh, params: Any) -> Any:
    """How a device enters: with the part of each parameter that "fsdp" gives it."""

    def spec(sharding: Any) -> PartitionSpec:
        is_split = mesh.shape["fsdp"] > 1
        return PartitionSpec(
            *("fsdp" if is_split and entry == "fsdp" else None for entry in sharding.spec)
        )

    return jax.tree.map(spec, param_shardings(mesh, params))


def _split_axis(spec: PartitionSpec) -> int | None:
    entries = tuple(spec)
    return entries.index("fsdp") if "fsdp" in entries else None


def _scattered(grad: jax.Array, spec: PartitionSpec) -> jax.Array:
    """A device's own part of the gradient of all rows."""
    axis = _split_axis(spec)
    if axis is None:
        return jax.lax.psum(grad, _ROW_AXES)
    grad = jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=axis, tiled=True)
    return jax.lax.psum(grad, "data")
