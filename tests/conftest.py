"""Strict numerics for every test, 8 fake CPU devices, and the fixtures that find real models.

Most of the tests' time is XLA's, which therefore compiles quickly rather than well; what the README
and the notebooks show is compiled as users have it.
"""

import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from medusa_jax.decoding import programs
from medusa_jax.plan.topology import is_installed
from tests.commands import PROGRAMS

# An installed TPU compiler is for tests that ask for it: here and in the commands that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # for commands that tests start
jax.config.update("jax_disable_most_optimizations", True)
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # tests run side by side
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"
# Files that take longest. They start first, or one worker would wait at the end for another's.
LONGEST = (
    "infer/test_in_process.py",
    "medusa_jax/decoding/engine/test_engine.py",
    "medusa_jax/decoding/test_auto.py",
    "train/test_two_process_training.py",
    "infer/test_benchmark.py",
    "docs/test_code_blocks.py",
    "train/test_report.py",
    "train/test_long_runs.py",
    "train/test_two_process_refusals.py",
    "train/test_self_distill.py",
    "parity/test_transformers.py",
)


def shared_path(relative: str) -> Path:
    """Path of a real model or data file, or skip: a plain clone of the project has none."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative}, which is not part of the repository")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, which `--no-loadscope-reorder` leaves to the workers."""
    order = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that compile for TPUs or GPUs are skipped where the compiler is not installed.

    Otherwise they compile well, and keep no program.
    """
    if {"tpu_compiler", "gpu_compiler"} & {mark.name for mark in item.iter_markers()}:
        jax.config.update("jax_disable_most_optimizations", False)
        jax.config.update("jax_enable_compilation_cache", False)
    if item.get_closest_marker("tpu_compiler") and importlib.util.find_spec("libtpu") is None:
        pytest.skip('needs the TPU compiler: pip install "medusa-jax[plan]"')
    if item.get_closest_marker("gpu_compiler") and not is_installed("jax_plugins.xla_cuda12"):
        pytest.skip('needs the GPU compiler: pip install "medusa-jax[cuda]"')


@pytest.fixture(scope="session", autouse=True)
def program_folder() -> Iterator[Path]:
    """Folder of compiled programs: many test files need the same ones, and each forgets its own.

    It is this process's own, as JAX may read what is half written; commands that tests start and
    wait for may use it.
    """
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", os.environ.get(PROGRAMS, folder))
        yield Path(jax.config.values["jax_compilation_cache_dir"])


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
