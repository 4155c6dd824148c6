"""Angles of rotary positions: their values, and how often a program computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import RopeConfig
from medusa_jax.nn.rope import apply_rope, rope_angles

ROPE, H = RopeConfig(), 16
POSITION_BT = np.array([[0, 1, 2, 77], [5, 6, 8191, 9]], np.int32)
X_BTNH = np.random.default_rng(0).normal(size=(2, 4, 3, H)).astype(np.float32)


def angles(position_BT):
    return rope_angles(ROPE, H, position_BT, position_BT + 1)


def layers(position_BT, x_BTNH):
    cos_sin, x = angles(position_BT), x_BTNH
    for _ in range(3):
        x = jax.lax.optimization_barrier(apply_rope(x, *cos_sin))
        x = x / (1 + jnp.abs(x).sum(axis=-1, keepdims=True))
    return x


@pytest.mark.parametrize("jit", [False, True])
def test_cosines_and_sines(jit):
    frequency_h = ROPE.theta ** -(np.arange(0, H, 2) / H)
    angle_BTh = (POSITION_BT[:, :, None] * frequency_h.astype(np.float32)).astype(np.float32)
    cos, sin = (jax.jit(angles) if jit else angles)(POSITION_BT)
    # A unit of an angle's last place is up to half a thousandth at position 8191.
    np.testing.assert_allclose(cos, np.cos(angle_BTh.astype(np.float64)), atol=5e-4)
    np.testing.assert_allclose(sin, np.sin(angle_BTh.astype(np.float64)), atol=5e-4)
    np.testing.assert_allclose(cos[0], np.cos(angle_BTh[0].astype(np.float64)), atol=1e-5)


def test_a_program_computes_them_once():
    """Not once per layer and head, as XLA's CPU backend does when it may fuse them."""
    text = jax.jit(layers).lower(POSITION_BT, X_BTNH).compile().as_text()
    assert text.count(" cosine(") == text.count(" sine(") == 1


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_programs_for_accelerators_have_no_loop(platform):
    traced = jax.jit(layers).trace(POSITION_BT, X_BTNH)
    assert "stablehlo.while" in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.while" not in traced.lower(lowering_platforms=(platform,)).as_text()
