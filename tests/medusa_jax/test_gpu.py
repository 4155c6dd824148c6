"""What programs for GPUs with and without Triton get."""

import subprocess
import sys
import types

import jax
import pytest

from medusa_jax import gpu
from medusa_jax.gpu import (
    compiler_options,
    has_triton,
    product_options,
    saying_whether_triton,
)


def test_no_gpu_no_kernels_and_no_options():
    assert has_triton() is False
    assert compiler_options() == product_options("float32") == {}


@pytest.mark.parametrize("said", [True, False])
def test_what_is_said_of_planned_gpus(said):
    with saying_whether_triton(said):
        assert has_triton() is said
        assert bool(compiler_options()) is not said
        assert bool(product_options("float32")) is said
        assert product_options("bfloat16") == {}
    assert has_triton() is False


@pytest.mark.parametrize(
    ("capability", "expected"), [("7.5", False), ("8.0", True), ("10.0", True), ("gfx90a", True)]
)
def test_gpus_of_this_machine(monkeypatch, capability, expected):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(gpu.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(gpu.jax, "devices", lambda: [device])
    assert has_triton() is expected
    assert bool(compiler_options()) is not expected


def test_a_jax_without_triton_does_without_its_kernels():
    """In a process of its own, which imports everything anew."""
    code = """
import sys
for name in ("triton", "ops.gpu", "ops.gpu.attention"):
    sys.modules[f"jax.experimental.pallas.{name}"] = None
from medusa_jax import gpu
from medusa_jax.nn import packed_attention, prefix_attention
from medusa_jax.decoding import cache
with gpu.saying_whether_triton(True):
    print(gpu.has_triton(), bool(gpu.compiler_options()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False True\n"


def test_a_new_context_is_a_new_trace():
    """A program traced for one GPU is not taken for another."""
    seen = []

    @jax.jit
    def f(x):
        seen.append(has_triton())
        return x

    for said in (True, False):
        with saying_whether_triton(said):
            f(1.0)
    assert seen == [True, False]
