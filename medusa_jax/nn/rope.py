"""Rotary position embedding with the context extensions of Llama checkpoints (half-split form)."""

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import RopeConfig


def base_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """float64 [H/2] radians per position, for every kind but "dynamic" beyond its context."""
    frequency = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "linear":
        return frequency / rope.factor
    if rope.kind == "llama3":
        return _llama3_frequencies(rope, frequency)
    return frequency


def _llama3_frequencies(rope: RopeConfig, frequency: np.ndarray) -> np.ndarray:
    """Keeps short wavelengths, divides long ones by `factor`, interpolates between."""
    turns = rope.original_max_position * frequency / (2 * np.pi)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency * (smooth + (1 - smooth) / rope.factor)


def rope_angles(
    rope: RopeConfig, head_dim: int, position_BT: jax.Array, context_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of the rotation at each position.

    Args:
      rope: which rotation.
      head_dim: H.
      position_BT: int32, absolute positions.
      context_BT: int32, length of the sequence the token was first computed in; read only by
        "dynamic", whose base grows with the sequence (NTK-aware scaling).

    Returns:
      cos, sin: float32 [B, T, H/2].
    """
    frequency_BTh = jnp.asarray(base_frequencies(rope, head_dim), jnp.float32)[None, None, :]
    if rope.kind == "dynamic":
        length = jnp.maximum(context_BT, rope.original_max_position).astype(jnp.float32)
        growth_BT = rope.factor * length / rope.original_max_position - (rope.factor - 1)
        # theta is multiplied by growth ** (H / (H - 2)), so frequency i by its -2i/H-th power.
        power = jnp.asarray(-np.arange(0, head_dim, 2) / (head_dim - 2), jnp.float32)
        frequency_BTh = frequency_BTh * growth_BT[:, :, None] ** power[None, None, :]
    angle_BTh = position_BT.astype(jnp.float32)[:, :, None] * frequency_BTh
    cos_BTh, sin_BTh = jax.lax.platform_dependent(
        angle_BTh, cpu=_in_a_loop, default=lambda angle: (jnp.cos(angle), jnp.sin(angle))
    )
    return cos_BTh, sin_BTh


def _in_a_loop(angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine, one per turn of a loop.

    XLA's CPU backend fuses a cosine into all that reads it, and so computes it again for every head
    of every layer. It keeps what comes out of a loop, whereas barriers are gone before it fuses.
    """
    is_cos_2 = jnp.array([True, False])
    cos, sin = jax.lax.map(lambda c: jnp.where(c, jnp.cos(angle), jnp.sin(angle)), is_cos_2)
    return cos, sin


def apply_rope(x_BTNH: jax.Array, cos_BTh: jax.Array, sin_BTh: jax.Array) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H/2]) of every head in float32; returns x's dtype."""
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BTh[:, :, None, :], sin_BTh[:, :, None, :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_BTNH.dtype)
