"""Meshes of devices with the axes "data", "fsdp" and "tensor"."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding

from medusa_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


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


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that parameters are spread over; None: they are on one device, or on the host."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return mesh if isinstance(mesh, Mesh) else None
