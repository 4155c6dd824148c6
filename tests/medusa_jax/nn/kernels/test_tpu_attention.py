"""The TPU's attention kernel, interpreted, against one dense masked softmax in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn.kernels import tpu_attention as module
from medusa_jax.nn.kernels.tpu_attention import fused_attention as rotating
from medusa_jax.nn.rope import apply_rope
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
from tests.medusa_jax.nn.kernels.device import INTERPRETED
from tests.medusa_jax.nn.test_attention import random_case
from tests.medusa_jax.nn.test_prefix_attention import by, random_angles


def fused_attention(q, k, v, *others, **options):
    """Of rotated queries and keys: it gets those that it has to rotate to come to them."""
    angle = random_angles({"q": q})
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    q, k = (apply_rope(x, cos, -sin) for x in (q, k))
    return rotating(q, k, v, cos, sin, *others, **options)[0]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("nodes", "kv_heads", "groups", "dim"),
    [(1, 1, 4, 8), (33, 1, 3, 4), (5, 2, 2, 128)],
)
def test_every_block_of_slots_and_tokens_counts(monkeypatch, nodes, kv_heads, groups, dim, window):
    monkeypatch.setattr(module, "_SLOTS", 8)
    monkeypatch.setattr(module, "_ROWS", 16 * groups)
    case = random_case(nodes, nodes, kv_heads, groups, 30, batch=3, dim=dim)
    check(fused_attention, at_lengths(case, 0, 17, 30), window)


@pytest.mark.parametrize("window", [1, 5, 9])
def test_windows_that_begin_about_the_edges_of_blocks(monkeypatch, window):
    monkeypatch.setattr(module, "_SLOTS", 8)
    check_where_a_window_begins(fused_attention, window, 8, 8)


def test_every_row_may_have_its_own_tree():
    check_a_tree_for_every_row(fused_attention, 8)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 16])
def test_lengths_about_the_edges_of_blocks(monkeypatch, length):
    monkeypatch.setattr(module, "_SLOTS", 8)
    check(fused_attention, at_lengths(random_case(3, 5, 2, 2, 16, batch=1), length))


@pytest.mark.parametrize("dim", [4, 128])
def test_nothing_beyond_a_rows_length_is_seen(monkeypatch, dim):
    monkeypatch.setattr(module, "_SLOTS", 4)
    check_beyond_a_rows_length(fused_attention, 11, dim)


def test_bfloat16_is_rounded_where_the_products_are():
    """Without an angle, whose products would be rounded as well."""

    def unrotated(q, *others, **options):
        angle = jnp.zeros((*q.shape[:2], q.shape[3] // 2))
        return rotating(q, *others[:2], jnp.cos(angle), angle, *others[2:], **options)[0]

    check_bfloat16(unrotated)


def test_heads_are_cut_into_blocks_of_whole_registers():
    assert module._heads_at_once(32, 128, module._channels_at_once(512 * 2, 64 * 2)) == 8
    assert module._heads_at_once(32, 128, module._channels_at_once(512 * 2, 256 * 2)) == 4
    assert module._heads_at_once(8, 64, module._channels_at_once(512 * 2, 64 * 2)) == 8
    assert module._heads_at_once(8, 64, 64) == 2  # no less than a register
    assert module._heads_at_once(2, 4, 1 << 18) == 2  # of no register: all
    assert module._heads_at_once(32, 100, 1024) == 32
    assert [module._tokens_at_once(n, 4) for n in (16, 64, 96, 512)] == [16, 64, 32, 64]


def test_heads_of_a_mesh_stay_where_they_are():
    check_mesh(fused_attention, 8)


@pytest.mark.parametrize(("nodes", "dim"), [(1, 8), (33, 128), (400, 128)])
def test_the_new_keys_come_back_rotated(nodes, dim):
    """Of all blocks of heads and tokens."""
    case = random_case(2, nodes, 2, 2, 16, dim=dim)
    q, k, *others = arrays_of(case)
    angle = random_angles(case)
    _, rotated = rotating(
        q, k, others[0], jnp.cos(angle), jnp.sin(angle), *others[1:], interpret=INTERPRETED
    )
    np.testing.assert_allclose(rotated, by(angle, case)["k"], rtol=1e-5, atol=1e-5)
