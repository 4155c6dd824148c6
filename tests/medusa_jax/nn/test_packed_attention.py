"""Attention of packed sequences: JAX's kernels, interpreted, against dense formulas."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.gpu import saying_whether_triton
from medusa_jax.nn.packed_attention import Packed, packed_attention, splash, triton
from medusa_jax.plan.topology import lowering_for

B, T, N, K, H = 2, 256, 4, 2, 16


def problem(dtype: str = "float32"):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(B, T, n, H)).astype(np.float32) for n in (N, K, K))
    # Documents of 100, 120 and 30 tokens with padding, and of 256.
    segment = np.repeat([[1, 2, 3, 0]], [100, 120, 30, 6], axis=1)
    segment = np.concatenate([segment, np.ones((1, T), int)]).astype(np.int32)
    return [jnp.asarray(x, dtype) for x in (q, k, v)], jnp.asarray(segment)


def positions(segment):
    starts = np.stack([[np.argmax(row == n) for n in row] for row in np.asarray(segment)])
    return jnp.asarray(np.arange(T)[None] - starts, jnp.int32)


def dense(q, k, v, segment, window):
    """softmax(q k / sqrt(H)) v over the keys of the own document, none after, none too far."""
    k, v = (jnp.repeat(x, N // K, axis=2) for x in (k, v))
    score = jnp.einsum("btnh,bsnh->bnts", q, k, precision="highest") / np.float32(H**0.5)
    distance = np.arange(T)[:, None] - np.arange(T)[None]
    near = (distance >= 0) & (distance < (window or T))
    seen = (segment[:, :, None] == segment[:, None, :]) & near[None]
    weight = jax.nn.softmax(jnp.where(seen[:, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weight, v, precision="highest")


@pytest.mark.parametrize(("kernel", "window"), [(splash, None), (splash, 40), (triton, None)])
def test_a_kernel_is_dense_attention_forwards_and_backwards(kernel, window):
    (q, k, v), segment = problem()
    weight = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def value(function, q, k, v):
        out = function(q, k, v, segment)
        return (out * weight).sum(), out

    options = {} if kernel is triton else {"window": window}
    found, expected = (
        jax.jit(jax.grad(functools.partial(value, f), (0, 1, 2), has_aux=True))(q, k, v)
        for f in (
            functools.partial(kernel, interpret=True, **options),
            functools.partial(dense, window=window),
        )
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_a_tpu_it_is_dense_attention_too(window, dtype):
    (q, k, v), segment = problem(dtype)
    attend: Any = jax.jit(packed_attention, static_argnames="window")
    found = attend(q, k, v, Packed(segment), positions(segment), window=window)
    expected = dense(*(x.astype(jnp.float32) for x in (q, k, v)), segment, window)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 0.03
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=tolerance)


def test_only_a_program_for_a_tpu_has_the_kernel():
    (q, k, v), segment = problem("bfloat16")
    function = jax.jit(packed_attention)
    arguments = (q, k, v, Packed(segment), positions(segment))
    kernels = [
        function.trace(*arguments)
        .lower(lowering_platforms=(platform,))
        .as_text()
        .count("tpu_custom")
        for platform in ("cpu", "tpu")
    ]
    assert kernels[0] == 0 < kernels[1]


@pytest.mark.parametrize(
    ("has_triton", "window", "expected"),
    [(True, None, True), (True, T, True), (True, T - 1, False), (False, None, False)],
)
def test_only_a_program_for_a_gpu_with_triton_has_its_kernel(has_triton, window, expected):
    """Which knows no window: of a narrower one than the sequence, blocks of queries take care."""
    assert ("xla.gpu.triton" in lowered_for_a_gpu(has_triton, window)) is expected


def test_a_jax_without_that_kernel_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.ops.gpu.attention", None)
    assert "xla.gpu.triton" not in lowered_for_a_gpu(True, None)


def lowered_for_a_gpu(has_triton, window) -> str:
    (q, k, v), segment = problem("bfloat16")
    with saying_whether_triton(has_triton), lowering_for("NVIDIA A100-SXM4-80GB"):
        function = jax.jit(functools.partial(packed_attention, window=window))
        traced = function.trace(q, k, v, Packed(segment), positions(segment))
        return traced.lower(lowering_platforms=("cuda",)).as_text()
