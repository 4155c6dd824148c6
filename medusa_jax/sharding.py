"""Where arrays lie on a mesh of devices: one table from logical axes to mesh axes.

Under `jax.jit` (what `pjit` became) arguments carry their shardings and the compiler derives the
rest; only the residual stream of training is pinned, by the `Pin` that the network is given.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medusa_jax.config import LlamaConfig
from medusa_jax.nn.params import all_heads_params, backbone_params, by_path

MATRICES = ("weight", "a", "b")  # names of parameters that are rounded to the compute dtype

_MESH_AXES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "vocab": "tensor",
    "heads": "tensor",  # attention heads times their width
    "mlp": "tensor",
    "block": "tensor",  # outputs of the Medusa heads' residual blocks
    "embed": "fsdp",  # the residual stream
    "medusa": None,  # which Medusa head,
    "pair": None,  # and which token before it
    "layer": None,
    "rank": None,
}


def logical_sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """Sharding of an array by the names of its dimensions.

    A dimension that its mesh axes do not divide evenly is not split.

    Args:
      mesh: from `make_mesh`.
      axes: a logical name per dimension; None: not split.
      shape: of the array.

    Raises:
      ValueError: two dimensions claim one mesh axis, or names and shape differ in length.
    """
    entries = [
        _divides(mesh, None if axis is None else _MESH_AXES[axis], size)
        for axis, size in zip(axes, shape, strict=True)
    ]
    used = [axis for entry in entries for axis in _as_tuple(entry)]
    if len(used) != len(set(used)):
        raise ValueError(f"axes {tuple(axes)} use a mesh axis twice: {tuple(entries)}")
    return NamedSharding(mesh, PartitionSpec(*entries))


def _divides(mesh: Mesh, entry: str | tuple[str, ...] | None, size: int) -> Any:
    parts = math.prod(mesh.shape[axis] for axis in _as_tuple(entry))
    return entry if size % parts == 0 else None


def _as_tuple(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else entry


def param_shardings(mesh: Mesh, tree: Any) -> Any:
    """Shardings of parameters, or of whatever repeats their paths, such as an optimizer's state.

    Leaves are recognised by the last module and leaf name in their path, e.g. ("q", "weight"), with
    whatever comes before or after; leaves that are not, or whose rank differs from the parameter's
    (scalars, factored moments), are replicated. What was taken out of a stack, such as ("blocks",
    0, "weight") (`medusa_jax.nn.branch.own_params`), lies as it did there.

    Args:
      mesh: from `make_mesh`.
      tree: a pytree of arrays or `jax.ShapeDtypeStruct`s: backbone, heads, LoRA, or dicts, tuples
        and dataclasses that hold such trees.

    Returns:
      The same tree with a `NamedSharding` for every leaf.
    """

    def of(path, leaf) -> NamedSharding:
        axes = _axes_of([key_name(key) for key in path])
        if axes is None:  # a number may stand between module and leaf
            names = [key_name(x) for x in path if not isinstance(x, jax.tree_util.SequenceKey)]
            axes = (_axes_of(names) or ())[-len(leaf.shape) :]
        if len(axes) != len(leaf.shape):
            axes = (None,) * len(leaf.shape)
        return logical_sharding(mesh, axes, leaf.shape)

    return jax.tree_util.tree_map_with_path(of, tree)


def with_shardings(tree: Any, shardings: Any) -> Any:
    """`jax.ShapeDtypeStruct`s of a tree's leaves that carry the shardings of another tree."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def key_name(key: Any) -> str:
    """Name of one step of a leaf's path: a dict's key, an attribute's name or an index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def _axes_of(path: list[str]) -> tuple[str | None, ...] | None:
    known = _known_axes()
    pairs = zip(path[-2::-1], path[:0:-1], strict=True)
    return next((known[pair] for pair in pairs if pair in known), None)


@functools.cache
def _known_axes() -> dict[tuple[str, str], tuple[str | None, ...]]:
    """Axes of every parameter and adapter there can be, by the names of its module and itself."""
    backbone = LlamaConfig(
        1, 1, 1, 1, 1, 1, 1, 1, qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True
    )
    known: dict[tuple[str, str], tuple[str | None, ...]] = {}
    for records in (backbone_params(backbone), *all_heads_params()):
        for (*_, module, name), record in by_path(records).items():
            known[module, name] = record.axes
            if name == "weight":  # (..., out, in): an adapter's A is (rank, in), its B (out, rank)
                known[module, "a"] = ("rank", record.axes[-1])
                known[module, "b"] = (record.axes[-2], "rank")
    return known


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Sharding of an array whose first of `ndim` dimensions counts the rows of the batch."""
    return NamedSharding(mesh, PartitionSpec(_MESH_AXES["batch"], *[None] * (ndim - 1)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
