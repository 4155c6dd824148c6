"""Devices of accelerators that are not there, by name: "v5e:2x2", "h100:8"."""

import contextlib
import dataclasses
import functools
import importlib.resources
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from medusa_jax.errors import UserError
from medusa_jax.gpu import TRITON_CAPABILITY, saying_whether_triton
from medusa_jax.plan.chips import Chip, chip
from medusa_jax.plan.quiet import silenced_stderr
from medusa_jax.tpu import quiet_libtpu

_GIB = 1 << 30
# What the TPU compiler lets a program use of a device's memory ("exceeds available HBM" names it).
_TPU_BYTES = {
    "v4": round(30.75 * _GIB),
    "v5e": round(15.75 * _GIB),
    "v5p": round(95.73 * _GIB),
    "v6e": round(31.24 * _GIB),
}
# A v4 chip is one device of two cores, as it is to a program that runs.
_TPU_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
_MOST_GPUS = 1024


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: as the user wrote it.
      platform: "tpu" or "gpu".
      devices: of `jax.experimental.topologies`: nothing can run on them.
      chip: what one of them can do.
      hbm_bytes: what a program may take of the memory of one.
      has_triton: for GPUs, whether they have Triton kernels.
    """

    name: str
    platform: str
    devices: tuple[Any, ...]
    chip: Chip
    hbm_bytes: int
    has_triton: bool = True

    @property
    def device_kind(self) -> str:
        """What JAX calls a device of this kind."""
        return self.devices[0].device_kind

    @property
    def dtype(self) -> str:
        """What `medusa_jax.io.load.default_dtype` takes on such a device.

        GPUs have had bfloat16 as long as Triton: from compute capability 8 on.
        """
        return "bfloat16" if self.has_triton else "float16"


def find_topology(name: str) -> Topology:
    """The devices that a name stands for.

    Args:
      name: "v5e:2x2", "v5p:2x2x1", "v6e:4x4", "v4:2x2x2": a TPU and the shape of its slice; or
        "h100:8", "h200:1", "a100:4": a GPU and how many. Call it before anything else of JAX:
        compilers read their options once.

    Raises:
      UserError: the name is unknown, or the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    if kind in _TPU_BYTES and re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        return _tpu(name, kind)
    if kind in _gpus() and re.fullmatch(r"[1-9]\d{0,3}", shape) and int(shape) <= _MOST_GPUS:
        return _gpu(name, kind, int(shape))
    raise UserError(
        f"unknown topology {name!r}: write a TPU and its slice ({', '.join(_TPU_BYTES)}; v5e:2x2, "
        f"v5p:2x2x1) or a GPU and how many ({', '.join(_gpus())}; h100:8)"
    )


def _gpus() -> tuple[str, ...]:
    files = importlib.resources.files("medusa_jax").joinpath("data/gpu_targets").iterdir()
    return tuple(sorted(file.name.removesuffix(".txtpb") for file in files))


def is_installed(module: str) -> bool:
    """Whether a module, with all packages that it is in, can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _tpu(name: str, kind: str) -> Topology:
    if not is_installed("libtpu"):
        raise UserError(
            f'planning for {name} needs the TPU compiler: pip install "medusa-jax[plan]"'
        )
    # A TPU machine's own metadata is not needed, and elsewhere there is nobody to ask for it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    quiet_libtpu()
    # Nothing is run: another process may plan, or even use a TPU, at the same time.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        with silenced_stderr():
            found = topologies.get_topology_desc(name, "tpu", **_TPU_OPTIONS.get(kind, {}))
    except Exception as error:  # whatever the plugin raises for a shape that it does not know
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(
            f"the TPU compiler knows no topology {name} ({reason}): choose another shape, such as "
            "v5e:2x2, v5e:2x4, v5p:2x2x1 or v6e:2x2"
        ) from error
    return _topology(name, "tpu", found.devices, _TPU_BYTES[kind])


def _gpu(name: str, kind: str, count: int) -> Topology:
    if not is_installed("jax_plugins.xla_cuda12"):
        raise UserError(
            f'planning for {name} needs the GPU compiler: pip install "medusa-jax[cuda]"'
        )
    target = importlib.resources.files("medusa_jax").joinpath(f"data/gpu_targets/{kind}.txtpb")
    text = target.read_text(encoding="utf-8")
    # Without a device the plugin refuses to start, and no kernel can be tried out (autotuning).
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    with silenced_stderr(), _cuda_without_a_device():
        found = topologies.get_topology_desc(
            "", platform="cuda", topology=f"1x1x{count}", target_config=text
        )
    (memory,) = re.findall(r"device_memory_size: (\d+)", text)
    (major,) = re.findall(r"major: (\d+)\s[^}]*feature_extension", text)
    has_triton = int(major) >= TRITON_CAPABILITY
    return _topology(name, "gpu", found.devices, int(memory), has_triton)


def _topology(
    name: str, platform: str, devices: Any, hbm_bytes: int, has_triton: bool = True
) -> Topology:
    figures = chip(devices[0].device_kind)
    if figures is None or figures.hbm is None:
        raise UserError(
            f"{name} is a {devices[0].device_kind}, of which no figures are known: choose another"
        )
    return Topology(name, platform, tuple(devices), figures, hbm_bytes, has_triton)


@contextlib.contextmanager
def compiling(topology: Topology) -> Iterator[None]:
    """A context for lowering and compiling programs for a topology."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(silenced_stderr())
        if topology.platform == "gpu":
            stack.enter_context(_cuda_without_a_device())
            stack.enter_context(saying_whether_triton(topology.has_triton))
            stack.enter_context(lowering_for(topology.device_kind))
        yield


def lowering_for(gpu: str) -> AbstractContextManager[Any]:
    """Tells Pallas which GPU its kernels are for, where JAX sees none.

    Args:
      gpu: its kind.
    """
    device = AbstractDevice(device_kind=gpu, num_cores=None, platform="gpu")
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


@contextlib.contextmanager
def _cuda_without_a_device() -> Iterator[None]:
    """JAX asks its backends which GPUs "gpu" means (jax issue 23971); here there are none."""
    from jax._src import xla_bridge

    original = xla_bridge.canonicalize_platform

    @functools.wraps(original)
    def answer(platform: str) -> str:
        return "cuda" if platform == "gpu" else original(platform)

    xla_bridge.canonicalize_platform = answer
    try:
        yield
    finally:
        xla_bridge.canonicalize_platform = original
