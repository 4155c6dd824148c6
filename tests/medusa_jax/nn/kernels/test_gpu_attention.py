"""The GPU's attention kernel, interpreted, against one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import pytest

from medusa_jax.gpu import saying_whether_triton
from medusa_jax.nn.kernels import gpu_attention as module
from medusa_jax.nn.kernels.gpu_attention import fused_attention, supports
from medusa_jax.nn.prefix_attention import prefix_attention
from medusa_jax.plan.topology import lowering_for
from tests.medusa_jax.nn.kernels.attentions import (
    arrays_of,
    at_lengths,
    check,
    check_a_tree_for_every_row,
    check_beyond_a_rows_length,
    check_bfloat16,
    check_mesh,
    check_where_a_window_begins,
)
from tests.medusa_jax.nn.test_attention import random_case
from tests.medusa_jax.nn.test_prefix_attention import random_angles


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("nodes", "kv_heads", "groups"),
    [(1, 2, 1), (1, 1, 4), (33, 1, 3), (5, 2, 2)],
)
def test_every_share_block_and_tile_counts(monkeypatch, nodes, kv_heads, groups, window):
    """Of 48 slots in blocks of 16 two shares, and of 16 rows and tokens several tiles."""
    for name, value in {"_SLOTS": 16, "_ROWS": 16, "_SLOTS_OF_A_SHARE": 24}.items():
        monkeypatch.setattr(module, name, value)
    case = random_case(nodes, nodes, kv_heads, groups, 48, batch=3, dim=16)
    check(fused_attention, at_lengths(case, 0, 17, 48), window)


@pytest.mark.parametrize("window", [1, 5, 9])
def test_windows_that_begin_about_the_edges_of_blocks(monkeypatch, window):
    monkeypatch.setattr(module, "_SLOTS", 16)
    check_where_a_window_begins(fused_attention, window, 16, 16)


def test_every_row_may_have_its_own_tree():
    check_a_tree_for_every_row(fused_attention, 16)


@pytest.mark.parametrize("length", [0, 15, 16, 17, 32])
def test_lengths_about_the_edges_of_blocks(monkeypatch, length):
    monkeypatch.setattr(module, "_SLOTS", 16)
    check(fused_attention, at_lengths(random_case(3, 5, 2, 2, 32, batch=1, dim=16), length))


def test_nothing_beyond_a_rows_length_is_seen():
    check_beyond_a_rows_length(fused_attention, 32, 16)


def test_bfloat16_is_rounded_where_the_products_are():
    check_bfloat16(fused_attention)


@pytest.mark.parametrize(
    ("head_dim", "slots", "expected"),
    [(128, 1024, True), (64, 16, True), (96, 1024, False), (8, 1024, False), (64, 1030, False)],
)
def test_sides_of_products_are_powers_of_two(head_dim, slots, expected):
    assert supports(head_dim, slots) is expected


def test_only_programs_for_gpus_with_triton_have_the_kernel():
    case = random_case(5, 5, 2, 2, 32, dim=16)
    angle = random_angles(case)
    arrays = arrays_of(case)

    def function(q, k, v, mask, position, prefix_k, prefix_v, length):
        angles = jnp.cos(angle), jnp.sin(angle)
        prefix = prefix_k, prefix_v
        return prefix_attention(q, k, v, angles, mask, position, prefix, length)

    def kernels(platform, has_triton):
        with saying_whether_triton(has_triton), lowering_for("NVIDIA A100-SXM4-80GB"):
            traced = jax.jit(function).trace(*arrays)
            return traced.lower(lowering_platforms=(platform,)).as_text().count("triton")

    assert kernels("cpu", True) == 0
    assert kernels("cuda", False) == 0
    assert kernels("cuda", True) > 0


def test_heads_of_a_mesh_stay_where_they_are():
    check_mesh(fused_attention, 16)
