"""What the GPUs that programs are compiled for can do: those of this machine, or planned ones."""

import importlib.util
from typing import Any

import jax

# Major number of the compute capability that Triton asks for.
TRITON_CAPABILITY = 8

_WITHOUT_TRITON = {
    "xla_gpu_dot_merger_threshold_mb": 0,
    "xla_gpu_enable_dynamic_slice_fusion": False,
}

# Whether GPUs that are not here have Triton; None: programs are for the devices of this machine.
_is_said = jax.make_user_context(None)


def saying_whether_triton(has_triton: bool) -> Any:
    """A context for programs that are compiled for other GPUs than this machine's."""
    return _is_said(has_triton)


def has_triton() -> bool:
    """Whether programs are for GPUs with Triton; elsewhere its kernels are not even traced."""
    return _triton() is True


def compiler_options() -> dict[str, Any]:
    """What `jax.jit` is to tell the compiler of a program.

    XLA merges products of the same rows, such as queries, keys and values. With Triton it reads
    their matrices where they are; without, it would write them next to each other in every step.
    And jax 0.12's cannot place the top k of a product if it makes one kernel of both and has padded
    the product's rows, which it does for its libraries.
    """
    return _WITHOUT_TRITON if _triton() is False else {}


def product_options(dtype: str) -> dict[str, Any]:
    """What `jax.jit` is to tell the compiler of a program whose products have this dtype.

    XLA compiles dozens of Triton kernels for every product and runs each to find the fastest. In
    exact float32 a kernel is one long list of multiplications, which may take seconds to compile:
    many minutes for a training step. cuBLAS comes with its kernels compiled.

    Args:
      dtype: of the products.
    """
    is_slow = has_triton() and dtype == "float32"
    return {"xla_gpu_enable_triton_gemm": False} if is_slow else {}


def _triton() -> bool | None:
    """None: programs are for no GPU."""
    said = _is_said.value
    if said is None and jax.default_backend() != "gpu":
        return None
    # JAX is going to remove it.
    if importlib.util.find_spec("jax.experimental.pallas.triton") is None:
        return False
    if said is not None:
        return said
    # A text such as "7.5"; ROCm's, "gfx90a", is no number, and does not matter here.
    major = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")[0]
    return not major.isdigit() or int(major) >= TRITON_CAPABILITY
