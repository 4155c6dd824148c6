"""A kernel on every device of a mesh: the compiler cannot take one apart by itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec


def on_each_device(
    local: Callable[..., Any],
    mesh: Mesh | None,
    num_kv_heads: int,
    operands: Sequence[str],
    results: str | tuple[str, ...],
) -> Callable[..., Any]:
    """Runs a function on the heads that a device has; all else is whole on every device.

    Args:
      local: of arrays.
      mesh: from `medusa_jax.sharding.make_mesh`; None: there is one device.
      num_kv_heads: K; where "tensor" does not divide it, every device has all heads.
      operands: the axes of each array, such as "BTNH"; N and K are the heads.
      results: likewise.
    """
    if mesh is None:
        return local
    heads = "tensor" if num_kv_heads % mesh.shape["tensor"] == 0 else None

    def spec(axes: str) -> PartitionSpec:
        return PartitionSpec(*(heads if axis in "NK" else None for axis in axes))

    out_specs: Any = jax.tree.map(spec, results)
    in_specs = tuple(map(spec, operands))
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
