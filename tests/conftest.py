"""Strict numerics for every test, 8 fake CPU devices, and the fixtures that find real models."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from medusa_jax.decoding import programs
from medusa_jax.plan.topology import is_installed

# An installed TPU compiler is for tests that ask for it: here and in the commands that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # tests run side by side
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_path(relative: str) -> Path:
    """Path of a real model or data file, or skip: a plain clone of the project has none."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative}, which is not part of the repository")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that compile for TPUs or GPUs are skipped where the compiler is not installed."""
    if item.get_closest_marker("tpu_compiler") and importlib.util.find_spec("libtpu") is None:
        pytest.skip('needs the TPU compiler: pip install "medusa-jax[plan]"')
    if item.get_closest_marker("gpu_compiler") and not is_installed("jax_plugins.xla_cuda12"):
        pytest.skip('needs the GPU compiler: pip install "medusa-jax[cuda]"')


@pytest.fixture(scope="module", autouse=True)
def freed_programs() -> Iterator[None]:
    """Programs of a test file are freed after it.

    Each of XLA's CPU programs maps memory, and a process may have 65530 mappings on Linux: those of
    a thousand tests are more, at which the compiler crashes.
    """
    yield
    programs.forget()
    jax.clear_caches()


@pytest.fixture(scope="session")
def stories260k() -> Path:
    return shared_path("models/stories260K")


@pytest.fixture(scope="session")
def stories15m() -> Path:
    return shared_path("models/stories15M")


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts this process, even if the tests run in the background and so ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
