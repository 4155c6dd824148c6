"""For tests that compile for TPUs or GPUs: `pytest -m tpu_compiler` runs them, and nothing else.

In processes of their own, since JAX's profiler, which other tests start, crashes where the TPU's
compiler has been loaded without a TPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

needs_tpu_compiler = pytest.mark.tpu_compiler
needs_gpu_compiler = pytest.mark.gpu_compiler


def told_nothing() -> dict[str, str]:
    """Environment of a process that is told nothing about devices."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "COLUMNS"))}


def run_module(module: str, *argv: str) -> subprocess.CompletedProcess:
    """A command of ours in a process that is told nothing about devices."""
    return subprocess.run(
        [sys.executable, "-m", module, *argv],
        cwd=ROOT,
        env=told_nothing(),
        capture_output=True,
        text=True,
        timeout=600,
    )
