"""Losses by blocks of time against the same losses at once, and what they cost."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn.layers import project
from medusa_jax.objectives.blockwise import loss_over_time
from medusa_jax.objectives.cross_entropy import cross_entropy
from medusa_jax.objectives.labels import IGNORE


def tanh_loss(params, part, labels):
    """With parameters, integers and None among the arguments, and sums beside the loss."""
    y = jnp.tanh(part["x"] @ params["w"]) * part["scale"][..., None]
    y = jnp.exp(y + part["number"][..., None].astype(y.dtype))  # not 0 where the inputs are
    y = jnp.where(labels[..., None] >= 0, y, 0.0) * params["times"].astype(y.dtype)
    sums = {"y": y.sum((0, 1)), "count": (labels >= 0).sum()}
    return params["coef"] * y.sum(), sums, {"y": y}


def tanh_problem():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"w": normal(4, 5), "coef": np.float32(0.7), "times": np.int32(3), "none": None}
    inputs = {"x": normal(2, 7, 4), "scale": normal(2, 7)}
    inputs["number"] = rng.integers(0, 2, (2, 7)).astype(np.int32)
    return params, inputs, rng.choice([IGNORE, 0, 3], (2, 7)).astype(np.int32)


# 2 and 3 do not divide 7: blocks of 2 and of 3 with one and two positions of padding.
@pytest.mark.parametrize("block", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_blocks_of_time_change_neither_sums_nor_gradients(block, scale):
    params, inputs, labels = tanh_problem()

    def loss(trained, floats, function):
        out, sums, kept = function(params | trained, inputs | floats, labels)
        return scale * out, (sums, kept)

    def by_blocks(*args):
        return loss_over_time(tanh_loss, *args, block)

    trained = {name: params[name] for name in ("w", "coef")}
    floats = {name: inputs[name] for name in ("x", "scale")}
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    got = gradient(trained, floats, by_blocks)
    wanted = gradient(trained, floats, tanh_loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, wanted)
    plain = jax.jit(by_blocks)(params, inputs, labels)
    np.testing.assert_allclose(scale * plain[0], wanted[0][0], rtol=2e-5)


def test_blocks_are_even_and_padded_with_positions_that_have_no_label():
    """301 time steps in blocks of at most 128: three of 101, as in the docstring's example."""
    seen = []

    def loss(params, inputs, labels):
        seen.append((inputs.shape, labels.shape))
        total = jnp.where(labels == IGNORE, 0.0, inputs).sum()
        return total, {"padding": (labels == IGNORE).sum()}, None

    inputs, labels = jnp.ones((1, 301)), jnp.zeros((1, 301), jnp.int32)
    total, sums, _ = loss_over_time(loss, None, inputs, labels, 128)
    assert set(seen) == {((1, 101), (1, 101))}
    assert total == 301
    assert sums["padding"] == 2


def shared_matrix_loss(params, hidden, labels):
    """Of M heads that share a matrix [V, D]."""
    loss_M = cross_entropy(project(hidden, params, jnp.dtype("float32")), labels).sum((0, 1))
    return loss_M.sum(), loss_M, None


def lowered_gradient(B, T, M, V, D, block, with_respect_to):
    def loss(w, x, labels):
        return loss_over_time(shared_matrix_loss, w, x, labels, block)[:2]

    shapes = [((V, D), jnp.float32), ((B, T, M, D), jnp.float32), ((B, T, M), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    gradient = jax.jit(jax.value_and_grad(loss, with_respect_to, has_aux=True))
    return gradient.lower(*arguments)


def largest_array(compiled):
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_logits_of_all_heads_and_positions_never_exist():
    B, T, M, V, D = 2, 128, 4, 512, 8
    chunked, direct = (
        lowered_gradient(B, T, M, V, D, block, with_respect_to=(0, 1)).compile()
        for block in (16, T)
    )
    assert largest_array(direct) >= B * T * M * V
    assert largest_array(chunked) <= B * 16 * M * V
    peak, direct_peak = (c.memory_analysis().temp_size_in_bytes for c in (chunked, direct))
    assert peak < direct_peak / 4


# A product with the matrix forward, one for the gradient of the heads and, only where the matrix
# is trained, one for its own; to compute logits again would be one more.
@pytest.mark.parametrize(("with_respect_to", "products"), [((1,), 2), ((0, 1), 3)])
def test_gradients_take_no_product_more_than_they_must(with_respect_to, products):
    B, T, M, V, D = 2, 8, 4, 512, 64
    lowered = lowered_gradient(B, T, M, V, D, T, with_respect_to)
    assert lowered.as_text().count("stablehlo.dot_general") == products
