"""A kernel on every device of a mesh: the compiler cannot split one by itself."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of each array that a kernel takes or returns, such as "BTNH"; N and K are heads."""

    operands: tuple[str, ...]
    results: str | tuple[str, ...]


# In the order of `fused_attention` and of `fused_append` on GPUs, and on TPUs, where all heads of a
# token are one axis and the kernel rotates.
ATTENTION = Axes(("BTNH", "BTKH", "BTKH", "BTT", "BT", "BKHS", "BKSH", "B"), "BTNH")
APPEND = Axes(("BKHS", "BKSH", "BTKH", "BTKH", "BA", "B"), ("BKHS", "BKSH"))
FLAT_ATTENTION = Axes(
    ("BTN", "BTK", "BTK", "BTh", "BTh", "BTT", "BT", "BKHS", "BKSH", "B"), ("BTN", "BTK")
)
FLAT_APPEND = Axes(("BKHS", "BKSH", "BTK", "BTK", "BA", "B"), ("BKHS", "BKSH"))


def on_each_device(
    local: Callable[..., Any], mesh: Mesh | None, num_kv_heads: int, axes: Axes
) -> Callable[..., Any]:
    """Runs a function on the heads that a device has; all else is whole on every device.

    Args:
      local: a function of arrays.
      mesh: from `medusa_jax.mesh.make_mesh`; None: there is one device.
      num_kv_heads: K; where "tensor" does not divide it, every device has all heads.
      axes: of the arrays and of the results.
    """
    if mesh is None:
        return local
    heads = "tensor" if num_kv_heads % mesh.shape["tensor"] == 0 else None

    def spec(letters: str) -> PartitionSpec:
        return PartitionSpec(*(heads if axis in "NK" else None for axis in letters))

    out_specs: Any = jax.tree.map(spec, axes.results)
    in_specs = tuple(map(spec, axes.operands))
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
