"""Errors in short, devices that are full, and kernels that no device has room for."""

from medusa_jax.errors import in_short, is_out_of_memory


def test_the_memory_of_a_core_is_not_that_of_a_device():
    full = "RESOURCE_EXHAUSTED: Ran out of memory in memory space {}. Used 16.50M of 16.00M"
    assert is_out_of_memory(RuntimeError(full.format("hbm")))
    assert not is_out_of_memory(RuntimeError(full.format("vmem")))


def test_an_error_in_short_is_one_line_and_never_empty():
    assert in_short(ValueError("two\n  lines")) == "two lines"
    assert in_short(TimeoutError()) == "TimeoutError"
    assert len(in_short("x" * 1000)) == 200
