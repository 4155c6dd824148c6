"""Kernels are compiled on a GPU (JAX_PLATFORMS=cuda) and interpreted on a CPU."""

import jax
import pytest

INTERPRETED = jax.default_backend() == "cpu"


def skip_on_one_device():
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
