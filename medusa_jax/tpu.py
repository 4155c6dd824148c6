"""What the TPUs that programs are compiled for can do: those of this machine, or planned ones."""

import os
from typing import Any

import jax

_OLD = ("TPU v2", "TPU v3", "TPU v4")

# What JAX calls the TPUs that a program is for; None: it is for the devices of this machine.
_kind = jax.make_user_context(None)


def saying_which(kind: str) -> Any:
    """A context for programs that are compiled for a kind of device."""
    return _kind(kind)


def leaves_results_on_chip() -> bool:
    """Whether a kernel may leave its result in the core's own memory: refused before v5."""
    return not (_kind.value or jax.devices()[0].device_kind).startswith(_OLD)


def quiet_libtpu() -> None:
    """Tells libtpu, where it is installed without a TPU, what it would otherwise complain about.

    JAX loads libtpu whenever it looks for devices: call this before.
    """
    if os.environ.get("TPU_SKIP_MDS_QUERY") == "1":  # JAX sets it where there is no TPU
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
