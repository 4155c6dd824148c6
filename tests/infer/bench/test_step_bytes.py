"""Bytes that a step reads, by hand: of weights, and of a cache with and without a kernel."""

import types

import pytest

from infer.bench.step_bytes import cache_bytes, read_cache_bytes
from medusa_jax import gpu
from medusa_jax.model_shapes import SHAPES


def model_on(platform, dtype="bfloat16"):
    return types.SimpleNamespace(config=SHAPES["llama-7b"], dtype=dtype, platform=platform)


SLOT = 2 * 32 * 32 * 128  # numbers of a token's keys and values: 32 layers of 32 heads of 128


@pytest.mark.parametrize(
    ("platform", "has_triton", "slots"),
    [("gpu", True, 544), ("gpu", False, 1024), ("tpu", False, 544)],
)
def test_a_kernel_reads_what_is_there(platform, has_triton, slots):
    """Of 1024 slots, 3 rows have 544 tokens each."""
    lm = model_on(platform)
    with gpu.saying_whether_triton(has_triton):
        assert read_cache_bytes(lm, 1024, 3, tokens=544.0) == 3 * slots * SLOT * 2
    assert cache_bytes(lm, 1024, 3) == 3 * 1024 * SLOT * 2


def test_a_cpu_reads_all_of_it_in_float32():
    assert read_cache_bytes(model_on("cpu"), 1000, 1, tokens=10.0) == 1000 * SLOT * 4


def test_slots_that_fill_registers():
    """1000 slots of 16 bits are 1024, however few tokens more there are than that."""
    lm = model_on("tpu")
    assert cache_bytes(lm, 1000, 1) == 1024 * SLOT * 2
    assert read_cache_bytes(lm, 1000, 1, tokens=2000.0) == 1024 * SLOT * 2
