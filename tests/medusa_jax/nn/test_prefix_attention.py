"""Attention over prefix and tree against one dense masked softmax in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_jax.nn.attention import attention
from medusa_jax.nn.prefix_attention import prefix_attention
from tests.medusa_jax.nn.test_attention import dense_reference, random_case


def by(angle, case):
    """Queries and keys of a case turned by angles [B, T, H/2], as complex numbers."""
    turned = {}
    for name in ("q", "k"):
        a, b = np.split(np.asarray(case[name], np.float64), 2, axis=-1)
        z = (a + 1j * b) * np.exp(1j * np.asarray(angle, np.float64))[:, :, None]
        turned[name] = np.concatenate([z.real, z.imag], axis=-1)
    return case | turned


def random_angles(case):
    shape = (*case["q"].shape[:2], case["q"].shape[3] // 2)
    return np.random.default_rng(1).uniform(-np.pi, np.pi, shape).astype(np.float32)


def run(case, window=None, **changed):
    """Of queries and keys that are rotated already."""
    return run_rotating(case, np.zeros_like(random_angles(case)), window, **changed)[0]


def run_rotating(case, angle, window=None, **changed):
    c = case | changed
    return prefix_attention(
        jnp.asarray(c["q"]),
        jnp.asarray(c["k"]),
        jnp.asarray(c["v"]),
        (jnp.cos(angle), jnp.sin(angle)),
        jnp.asarray(c["mask"])[None],
        jnp.asarray(c["position"]),
        (jnp.asarray(c["prefix_k"]).swapaxes(2, 3), jnp.asarray(c["prefix_v"])),
        jnp.asarray(c["length"]),
        window=window,
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    nodes=st.sampled_from([1, 2, 7]),
    kv_heads=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 3]),
    slots=st.sampled_from([1, 9]),
    window=st.sampled_from([None, 1, 4]),
)
def test_merge_equals_dense_attention(seed, nodes, kv_heads, groups, slots, window):
    case = random_case(seed, nodes, kv_heads, groups, slots)
    expected = dense_reference(**{k: np.asarray(v) for k, v in case.items()}, window=window)
    np.testing.assert_allclose(run(case, window), expected, rtol=2e-5, atol=2e-5)


def test_queries_and_new_keys_are_rotated():
    case = random_case(4, 7, 2, 3, 9)
    angle = random_angles(case)
    rotated = by(angle, case)
    out, k = run_rotating(case, angle)
    np.testing.assert_allclose(out, dense_reference(**rotated, window=None), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(k, rotated["k"], rtol=1e-5, atol=1e-5)


def test_slots_beyond_a_rows_length_do_not_matter():
    case = random_case(3, 5, 2, 2, 8)
    garbage_k, garbage_v = case["prefix_k"].copy(), case["prefix_v"].copy()
    for b, length in enumerate(case["length"]):
        garbage_k[b, :, length:] = 1e30
        garbage_v[b, :, length:] = 1e30
    np.testing.assert_array_equal(run(case), run(case, prefix_k=garbage_k, prefix_v=garbage_v))


def test_gradient_reaches_ancestors_only():
    case = random_case(11, 12, 2, 2, 6)

    def node_output(v, node):
        return run(case, v=v)[:, node].sum()

    for node in range(12):
        gradient = jax.grad(node_output)(jnp.asarray(case["v"]), node)
        touched = np.asarray(jnp.abs(gradient).sum(axis=(0, 2, 3)) > 0)
        np.testing.assert_array_equal(touched, case["mask"][node])


def test_without_prefix_equals_an_empty_one():
    case = random_case(5, 6, 1, 2, 4)
    empty = run(case, length=np.zeros(2, np.int32))
    alone = attention(
        *(jnp.asarray(case[x]) for x in ("q", "k", "v")),
        jnp.asarray(case["mask"])[None],
        jnp.asarray(case["position"]),
    )
    np.testing.assert_allclose(alone, empty, rtol=1e-6, atol=1e-6)


def test_bfloat16_is_rounded_where_the_products_are():
    case = random_case(7, 4, 2, 2, 16, dim=16)
    half = {k: jnp.asarray(case[k], jnp.bfloat16) for k in ("q", "k", "v", "prefix_k", "prefix_v")}
    out = run(case, **half)
    assert out.dtype == jnp.bfloat16
    exact = case | {name: np.asarray(x, np.float64) for name, x in half.items()}
    expected = dense_reference(**exact, window=None)
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=0.01, atol=0.01)
