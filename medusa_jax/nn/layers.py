"""Linear maps and RMSNorm. Weights are (out, in), as Hugging Face stores them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medusa_jax.nn.product import product
from medusa_jax.nn.quantize import widened

Initializer = Callable[..., jax.Array]
_INIT: Initializer = nn.initializers.normal(0.02)


def project(x: jax.Array, weight: jax.Array, dtype: Any) -> jax.Array:
    """Applies a (out, in) weight to the last axis of x, accumulating in float32.

    Args:
      x: [..., in], any dtype.
      weight: [out, in], any dtype.
      dtype: dtype of the product's operands, see `product`.

    Returns:
      [..., out] in float32.
    """
    # Two axes: with more, XLA's CPU backend transposes a bfloat16 weight before the product.
    rows = x.astype(dtype).reshape(-1, x.shape[-1])
    y = product("RD,FD->RF", pad_lone_row(rows, dtype), weight, dtype)
    return y[: rows.shape[0]].reshape(*x.shape[:-1], weight.shape[0])


def pad_lone_row(rows: jax.Array, dtype: Any) -> jax.Array:
    """Doubles rows [1, ...] where two bfloat16 rows are faster than one; callers drop the copy.

    XLA's CPU backend has no fast bfloat16 matrix-vector product (ten times slower than two rows).
    """
    slow = rows.shape[0] == 1 and dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    return jnp.concatenate([rows, rows]) if slow else rows


def take_rows(table_VD: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of a table [V, D] at integer indices [...]: [..., D] in the table's dtype."""
    if table_VD.dtype != jnp.bfloat16:
        return jnp.take(table_VD, index, axis=0)
    # XLA's CPU backend widens the whole table to float32 before it gathers from bfloat16.
    bits = jax.lax.bitcast_convert_type(table_VD, jnp.uint16)
    return jax.lax.bitcast_convert_type(jnp.take(bits, index, axis=0), jnp.bfloat16)


class Linear(nn.Module):
    """y = W x (+ b), W: [features, in], computed and returned in `dtype`."""

    features: int
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., features]."""
        weight = self.param("weight", _INIT, (self.features, x.shape[-1]), jnp.float32)
        y = project(x, widened(weight, self.dtype), self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + jnp.expand_dims(bias.astype(jnp.float32), tuple(range(y.ndim - 1)))
        return y.astype(self.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, in float32; returns x's dtype."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        # Hugging Face rounds to the compute dtype before it scales.
        y = y.astype(x.dtype)
        return y * jnp.expand_dims(scale.astype(x.dtype), tuple(range(x.ndim - 1)))
