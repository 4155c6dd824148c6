"""Where arrays lie on a mesh of devices: one table from logical axes to mesh axes.

Under `jax.jit` (what `pjit` became) arguments carry their shardings and the compiler derives the
rest; only the residual stream of training is pinned, by the `Pin` that the network is given.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.nn.params import all_heads_params, backbone_params, by_path

AXES = ("data", "fsdp", "tensor")
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


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with the axes `AXES`, whose shardings the compiler propagates (axis type Auto).

    Args:
      data: devices along "data": each has other rows of the batch and the same parameters.
      fsdp: along "fsdp": other rows of the batch and other parts of the parameters.
      tensor: along "tensor": the same rows, other rows and columns of the matrices.
      devices: `jax.Device`s; default: all, of all processes. One size may be -1: all devices that
        the others leave. Without -1, fewer than there are may be used, if all belong to this
        process and the number divides theirs.

    Raises:
      UserError: the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes: dict[str, int] = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    shape = _fit(sizes, len(devices), may_leave_some=_are_own(devices))
    # jax.make_mesh makes Explicit axes by default, which the networks are not written for.
    types = (AxisType.Auto,) * len(AXES)
    count = math.prod(shape)
    try:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices[:count])
    except (AssertionError, NotImplementedError) as error:  # three of a TPU's four chips
        raise UserError(
            f"the first {count} devices are no block of their slice: choose sizes whose product is "
            "another number, such as a power of two"
        ) from error


def parse_mesh(text: str, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh for decoding, from text: axes that are not named have one device.

    Args:
      text: such as "tensor=4" or "data=2,tensor=-1", see `make_mesh`; devices may be left over.
      devices: `jax.Device`s; default: all, of all processes.

    Raises:
      UserError: the text is no mesh, or the sizes do not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes: dict[str, int] = {}
    for item in text.split(","):
        axis, _, size = item.partition("=")
        if axis not in AXES or axis in sizes or not re.fullmatch(r"-?\d+", size):
            raise UserError(
                f"the mesh is {text!r}: give sizes of {', '.join(AXES)}, as in tensor=4"
            )
        sizes[axis] = int(size)
    num = math.prod(sizes.values())
    if num > len(devices):
        raise UserError(
            f"the mesh {text} needs {num} devices, there {_are(len(devices))}: choose sizes whose "
            f"product is {len(devices)} or less"
        )
    if min(sizes.values()) > 0 and _are_own(devices):
        devices = devices[:num]
    return make_mesh(**dict.fromkeys(AXES, 1) | sizes, devices=devices)


def _are(number: int) -> str:
    return f"are {number}" if number != 1 else "is 1"


def _are_own(devices: Sequence[Any]) -> bool:
    """Whether no other process has one of them; devices only compiled for have no process."""
    if jax.process_count() == 1:
        return True
    return all(device.process_index == jax.process_index() for device in devices)


def _fit(sizes: dict[str, int], num_devices: int, *, may_leave_some: bool) -> tuple[int, ...]:
    """The sizes, -1 replaced."""
    asked = " ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"the mesh is {asked}: give positive sizes, or -1 for all other devices")
    if list(sizes.values()).count(-1) > 1:
        raise UserError(f"the mesh is {asked}: only one size may be -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    has_rest = -1 in sizes.values()
    if num_devices % known if has_rest or may_leave_some else num_devices != known:
        many = "a multiple of " if has_rest else ""
        raise UserError(
            f"the mesh {asked} needs {many}{known} devices, there are {num_devices}: choose sizes "
            f"whose product is {num_devices}, or -1 for one of them"
        )
    return tuple(num_devices // known if size == -1 else size for size in sizes.values())


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
    (scalars, factored moments), are replicated.

    Args:
      mesh: from `make_mesh`.
      tree: a pytree of arrays or `jax.ShapeDtypeStruct`s: backbone, heads, LoRA, or dicts, tuples
        and dataclasses that hold such trees.

    Returns:
      The same tree with a `NamedSharding` for every leaf.
    """

    def of(path, leaf) -> NamedSharding:
        axes = _axes_of([key_name(key) for key in path])
        if axes is None or len(axes) != len(leaf.shape):
            axes = (None,) * len(leaf.shape)
        return logical_sharding(mesh, axes, leaf.shape)

    return jax.tree_util.tree_map_with_path(of, tree)


def decoding_config(config: LlamaConfig, mesh: Mesh | None) -> LlamaConfig:
    """The same network for decoding on a mesh: as many key heads as "tensor" can split.

    A device needs the keys and values of the heads that it computes, and no others. If there are
    more devices than key heads, each key head is there several times (`with_repeated_heads`).

    Raises:
      UserError: "tensor" does not divide the attention heads, or not those of one key head.
    """
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    N, K = config.num_heads, config.num_kv_heads
    if N % math.lcm(K, tensor):
        sizes = [size for size in range(1, N + 1) if N % math.lcm(K, size) == 0]
        raise UserError(
            f"the mesh has tensor={tensor}, the model {N} attention heads and {K} key heads: "
            f"choose a size of tensor among {', '.join(map(str, sizes))}"
        )
    return dataclasses.replace(config, num_kv_heads=math.lcm(K, tensor))


def with_repeated_heads(
    params: dict[str, Any], config: LlamaConfig, mesh: Mesh | None
) -> tuple[LlamaConfig, dict[str, Any]]:
    """A backbone as `decoding_config` describes it: it computes the same as before.

    Args:
      params: of the backbone, on the mesh; its matrices may be quantised.
      config: of the same.
      mesh: see `decoding_config`.

    Returns:
      Configuration and parameters, in which every key head is there as often as it has to be.
    """
    wanted = decoding_config(config, mesh)
    times = wanted.num_kv_heads // config.num_kv_heads
    if mesh is None or times == 1:
        return wanted, params
    repeat = functools.partial(_repeated, config.head_dim, times)

    def of_layer(layer: dict[str, Any]) -> dict[str, Any]:
        keys = {name: layer["attn"][name] for name in ("k", "v")}
        shardings = param_shardings(mesh, jax.eval_shape(repeat, keys))
        keys = jax.jit(repeat, out_shardings=shardings)(keys)
        return layer | {"attn": layer["attn"] | keys}

    return wanted, {k: of_layer(v) if k.startswith("layers_") else v for k, v in params.items()}


def _repeated(head_dim: int, times: int, keys: Any) -> Any:
    """Repeats the rows of every array, those of a head together."""

    def repeated(x: jax.Array) -> jax.Array:
        heads = x.reshape(-1, head_dim, *x.shape[1:])
        return jnp.repeat(heads, times, axis=0).reshape(-1, *x.shape[1:])

    return jax.tree.map(repeated, keys)


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that parameters are spread over; None: they are on one device, or on the host."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None


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
