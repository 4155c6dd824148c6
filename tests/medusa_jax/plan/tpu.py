"""For tests that compile for TPUs."""

import importlib.util

import pytest

needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='needs the TPU compiler: pip install "medusa-jax[plan]"',
)
