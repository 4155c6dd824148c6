"""Rows of tables and lone rows of products: what only a program for a CPU may contain; norms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn.heads import _per_head
from medusa_jax.nn.layers import Linear, RMSNorm, draft_rows, project, take_rows
from medusa_jax.nn.params import layer_params
from medusa_jax.nn.quantize import int8_matrices
from tests.medusa_jax.packed import SMALL

V, D, M = 32, 16, 3
RNG = np.random.default_rng(0)
TABLE = jnp.asarray(RNG.normal(size=(V, D)), jnp.bfloat16)
INDEX = jnp.asarray([[3, 0, 31], [3, 7, 7]], jnp.int32)
ROW = jnp.asarray(RNG.normal(size=(1, D)), jnp.bfloat16)
BLOCKS = jnp.asarray(RNG.normal(size=(M, D, D)), jnp.bfloat16)


def looked_up(row, table, blocks):
    return take_rows(table, INDEX).astype(jnp.float32).sum()


def projected(row, table, blocks):
    return project(row, table, jnp.bfloat16).sum()


def through_heads(row, table, blocks):
    x = jnp.broadcast_to(row[:, None], (1, M, D))
    return _per_head(x, blocks, jnp.bfloat16).sum()


def everything(row, table, blocks):
    return sum(part(row, table, blocks) for part in (looked_up, projected, through_heads))


def trained(row, table, blocks):
    """Gradients under vmap, in a scan."""

    def body(total, _):
        gradients = jax.vmap(jax.grad(everything, (0, 1)), (0, None, None))(
            jnp.stack([row, row]), table, blocks
        )
        return jax.tree.map(lambda x, y: x + y.sum(0), total, gradients), None

    return jax.lax.scan(body, (row, table), None, length=2)[0]


PROGRAMS = {"looked up": looked_up, "projected": projected, "through heads": through_heads}
ALL = PROGRAMS | {"trained": trained}
# The marks of tricks in StableHLO: bits of a table, and a row that is there several times.
BITS, REPEATED = "ui16", "stablehlo.concatenate"


def lowered(program, platform):
    traced = jax.jit(program).trace(ROW, TABLE, BLOCKS)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("platform", "marks"), [("tpu", {REPEATED}), ("cuda", set())])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_for_accelerators_have_no_tricks_but_their_own(name, platform, marks):
    """Lowered in a process whose backend is a CPU, as ahead-of-time compilation does."""
    assert any(mark in lowered(PROGRAMS[name], "cpu") for mark in (BITS, REPEATED))
    program = lowered(PROGRAMS[name], platform)
    assert {mark for mark in (BITS, REPEATED) if mark in program} <= marks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_a_gpu_looks_two_rows_up_where_one_is_wanted(dtype):
    """XLA makes a slice of one, for which a mesh would gather the table."""
    table = TABLE.astype(jnp.float32 if dtype == "int8" else dtype)
    table = int8_matrices({"weight": table})["weight"] if dtype == "int8" else table
    for index in (INDEX[:1, :1], INDEX[0, :1], INDEX[0, 0]):
        traced = jax.jit(take_rows).trace(table, index)
        rows = {
            platform: {
                int(found[1])
                for line in traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
                if "stablehlo.gather" in line and (found := re.search(r"-> tensor<(\d+)x", line))
            }
            for platform in ("cuda", "tpu")
        }
        assert rows["cuda"] == {2}
        assert 2 not in rows["tpu"]
        exact = np.asarray(take_rows(table, INDEX), np.float32)
        got = np.asarray(jax.jit(take_rows)(table, index), np.float32)
        np.testing.assert_array_equal(got.reshape(-1, D)[0], exact[0, 0])
        assert got.shape == (*index.shape, D)


def test_float16_has_no_infinity():
    records = layer_params(SMALL)["attn"]["v"]
    weight = jnp.full((SMALL.num_kv_heads * SMALL.head_dim, SMALL.hidden_size), 100, jnp.float16)
    row = jnp.full((1, SMALL.hidden_size), 1000, jnp.float16)
    for sign in (1, -1):
        value = Linear(records, jnp.float16).apply({"params": {"weight": weight}}, sign * row)
        np.testing.assert_array_equal(np.asarray(value), sign * np.float16(65504))


@pytest.mark.parametrize("name", ALL)
def test_a_compiled_program_has_no_branches(name):
    text = jax.jit(ALL[name]).lower(ROW, TABLE, BLOCKS).compile().as_text()
    assert "conditional" not in text


def test_rows_and_their_gradient():
    exact = np.asarray(TABLE, np.float32)
    np.testing.assert_array_equal(np.asarray(take_rows(TABLE, INDEX), np.float32), exact[INDEX])
    gradient = jax.grad(looked_up, 1)(ROW, TABLE, BLOCKS)
    times = np.bincount(np.asarray(INDEX).ravel(), minlength=V)
    np.testing.assert_array_equal(
        np.asarray(gradient, np.float32), np.repeat(times[:, None], D, axis=1)
    )


def test_rows_of_a_draft_vocabulary():
    exact, token_map = np.asarray(TABLE, np.float32), np.array([30, 2, 2], np.int64)
    for table in (TABLE, np.asarray(TABLE), exact):
        rows = draft_rows(table, token_map)
        assert rows.dtype == table.dtype
        np.testing.assert_array_equal(np.asarray(rows, np.float32), exact[token_map])
        assert draft_rows(table, None) is table


def test_a_lone_row_is_computed_like_one_of_many():
    exact = np.asarray(ROW, np.float32) @ np.asarray(TABLE, np.float32).T
    one = project(ROW, TABLE, jnp.bfloat16)
    assert one.shape == (1, V)
    np.testing.assert_allclose(one, exact, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(projected)(ROW, TABLE, BLOCKS)
    np.testing.assert_allclose(
        np.asarray(gradient, np.float32), np.asarray(TABLE, np.float32).sum(0)[None], rtol=0.02
    )


def test_the_gradient_of_a_norms_scale_is_added_up_in_float32():
    """257 tokens of ones: between 256 and 258 bfloat16 has no number."""
    norm = RMSNorm(layer_params(SMALL)["attn_norm"], 0.0)
    scale_D = jnp.ones(SMALL.hidden_size, jnp.float32)

    def total(scale_D):
        x_TD = jnp.ones((257, SMALL.hidden_size), jnp.bfloat16)
        return norm.apply({"params": {"scale": scale_D}}, x_TD).astype(jnp.float32).sum()

    np.testing.assert_array_equal(jax.grad(total)(scale_D), 257)


def test_gradients_of_a_norm_are_those_of_its_formula():
    norm = RMSNorm(layer_params(SMALL)["attn_norm"], 1e-5)
    x_TD, scale_D, weight_TD = (
        jnp.asarray(RNG.normal(size=shape), jnp.float32)
        for shape in ((5, SMALL.hidden_size), (SMALL.hidden_size,), (5, SMALL.hidden_size))
    )

    def ours(x_TD, scale_D):
        return (norm.apply({"params": {"scale": scale_D}}, x_TD) * weight_TD).sum()

    def formula(x_TD, scale_D):
        rms_T1 = jnp.sqrt((x_TD**2).mean(-1, keepdims=True) + 1e-5)
        return (x_TD / rms_T1 * scale_D[None] * weight_TD).sum()

    found, expected = (jax.grad(f, (0, 1))(x_TD, scale_D) for f in (ours, formula))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
