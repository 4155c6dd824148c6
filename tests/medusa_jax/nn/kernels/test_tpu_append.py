"""The TPU's cache write, interpreted, against numpy's assignment."""

import jax
import numpy as np
import pytest

from medusa_jax.mesh import make_mesh
from medusa_jax.nn.kernels import tpu_append as module
from medusa_jax.nn.kernels.tpu_append import MOST_TOKENS, fused_append
from tests.medusa_jax.nn.kernels.appends import (
    check_dtype,
    check_mesh,
    check_starts,
    random_case,
    written,
)


@pytest.mark.parametrize(
    ("tokens", "slots", "dim", "nodes"),
    [(1, 32, 4, 1), (1, 32, 4, 9), (5, 45, 4, 33), (5, 45, 128, 64), (MOST_TOKENS, 20, 4, 16)],
)
def test_tokens_go_where_their_row_ends(monkeypatch, tokens, slots, dim, nodes):
    """In one block or over the edge of two, up to the last slot; all others stay as they are."""
    monkeypatch.setattr(module, "_LANES", 16)
    check_starts(fused_append, tokens, slots, dim, nodes)


def test_the_cache_keeps_its_dtype():
    check_dtype(fused_append)


def test_heads_of_a_mesh_stay_where_they_are():
    check_mesh(fused_append)


def test_heads_that_a_mesh_does_not_divide_are_whole_on_every_device():
    mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    case, start = random_case(0, 2, 3, 32, heads=3), np.asarray([7, 14], np.int32)
    found = jax.jit(lambda *arrays: fused_append(*arrays, start, mesh, interpret=True))(*case)
    for got, wanted in zip(found, written(*case, start), strict=True):
        np.testing.assert_array_equal(got, wanted)
