"""Arrays that share a block overlap nowhere, are adopted, and keep it no longer than they live."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_dtypes
import numpy as np
import pytest

from medusa_jax.io import buffers
from medusa_jax.io.buffers import aligned_buffer

MATRIX = (576, 1536)  # 3.5 MB in float32


@pytest.fixture(autouse=True)
def new_blocks(monkeypatch):
    """None that a model of another test has begun."""
    monkeypatch.setattr(buffers, "_BLOCKS", buffers._Blocks())


def owner(array):
    while array.base is not None:
        array = array.base
    return array


@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (), MATRIX, (4097, 1031)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8])
def test_an_array_is_adopted(shape, dtype):
    array, flat = aligned_buffer(shape, np.dtype(dtype))
    assert array.shape == shape
    assert array.dtype == flat.dtype == dtype
    flat[:] = np.arange(flat.size) % 101
    adopted = jax.device_put(array, jax.devices()[0])
    np.testing.assert_array_equal(np.asarray(adopted).reshape(-1), flat)
    if flat.size:
        assert adopted.unsafe_buffer_pointer() == array.ctypes.data


def test_arrays_of_a_block_do_not_overlap():
    """As many as several blocks hold, made by several threads at once."""

    def filled(number):
        array, flat = aligned_buffer(MATRIX, np.dtype(np.float32))
        flat[:] = number
        return array

    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(filled, range(40)))
    for number, array in enumerate(arrays):
        assert (array == number).all()
    assert len({id(owner(array)) for array in arrays}) == 3


def test_a_block_goes_with_its_last_array():
    first, second = (aligned_buffer(MATRIX, np.dtype(np.float32))[0] for _ in range(2))
    assert owner(first) is owner(second)
    block = weakref.ref(owner(first))
    del first
    gc.collect()
    assert block() is not None
    del second
    gc.collect()
    assert block() is None


def test_small_and_large_arrays_keep_no_block():
    matrix = aligned_buffer(MATRIX, np.dtype(np.float32))[0]
    for shape in [(576,), (2**22 + 1,)]:
        alone = aligned_buffer(shape, np.dtype(np.float32))[0]
        assert owner(alone) is not owner(matrix)
        assert owner(alone).nbytes < alone.nbytes + 128
