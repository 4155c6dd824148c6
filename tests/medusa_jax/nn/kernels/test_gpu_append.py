"""The GPU's cache write, interpreted, against numpy's assignment."""

import pytest

from medusa_jax.nn.kernels.gpu_append import fused_append
from tests.medusa_jax.nn.kernels.appends import check_dtype, check_mesh, check_starts


@pytest.mark.parametrize(
    ("tokens", "slots", "dim", "nodes"),
    [(1, 32, 4, 1), (1, 32, 4, 9), (5, 45, 4, 33), (5, 45, 16, 64), (16, 20, 4, 16)],
)
def test_tokens_go_where_their_row_ends(tokens, slots, dim, nodes):
    """Up to the last slot; all others stay as they are."""
    check_starts(fused_append, tokens, slots, dim, nodes)


def test_the_cache_keeps_its_dtype():
    check_dtype(fused_append)


def test_heads_of_a_mesh_stay_where_they_are():
    check_mesh(fused_append)
