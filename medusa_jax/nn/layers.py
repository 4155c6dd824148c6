"""Linear maps, table look-ups and RMSNorm. Weights are (out, in), as Hugging Face stores them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medusa_jax.nn.params import Param
from medusa_jax.nn.product import product
from medusa_jax.nn.quantize import Int8, is_quantized, widened

_FLOAT16_MAX = 65504.0


def sum_dtype(dtype: Any) -> Any:
    """The dtype of sums of unknown size where computation is in `dtype`: never float16."""
    return jnp.float32 if dtype == jnp.float16 else dtype


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """x in `dtype`; what exceeds float16 becomes its largest number, not infinity."""
    if dtype == jnp.float16:
        x = jnp.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX)
    return x.astype(dtype)


def project(x: jax.Array, weight: Any, dtype: Any) -> jax.Array:
    """Applies a (out, in) weight to the last axis of x, accumulating in float32.

    Args:
      x: [..., in], any dtype.
      weight: [out, in], any dtype, or quantised.
      dtype: dtype of the product's operands, see `product`.

    Returns:
      [..., out] in float32.
    """
    # Two axes: with more, XLA's CPU backend transposes a bfloat16 weight before the product.
    x_XD = rounded(x, dtype).reshape(-1, x.shape[-1])
    return product("XD,FD->XF", x_XD, weight, dtype).reshape(*x.shape[:-1], weight.shape[0])


def take_rows(table_VD: Any, index: jax.Array) -> jax.Array:
    """Rows of a table [V, D], quantised or not, at integer indices [...].

    Returns:
      [..., D] in the table's dtype (that of the scales where it is quantised).
    """
    if is_quantized(table_VD):
        rows = jax.tree.map(lambda x: _take(x, index), table_VD)
        return widened(rows, rows.dtype)
    if table_VD.dtype != jnp.bfloat16:
        return _take(table_VD, index)
    return _take_bfloat16(table_VD, index)


def draft_rows(table_VD: Any, token_map: Any) -> Any:
    """Rows of an LM head, or of its adapter, that stand for a draft vocabulary.

    Args:
      table_VD: [V, D], quantised or not.
      token_map: int [Vd], the tokens of the draft vocabulary; None: the heads have none.

    Returns:
      [Vd, D], in 8 bits where the table is; the table as it is where there is no draft vocabulary.
    """
    if token_map is None:
        return table_VD
    index = jnp.asarray(token_map, jnp.int32)
    if isinstance(table_VD, Int8):
        return jax.tree.map(lambda x: jnp.take(x, index, axis=0), table_VD)
    return take_rows(table_VD, index)


def _take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of an array.

    XLA makes a slice of a lone row, for which the GPUs of a mesh would gather the whole table: they
    take two.
    """

    def take(table: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.take(table, index, axis=0)

    def take_two(table: jax.Array, index: jax.Array) -> jax.Array:
        rows = take(table, jnp.broadcast_to(index.reshape(1), (2,)))
        return rows[:1].reshape(*index.shape, *table.shape[1:])

    if index.size > 1:
        return take(table, index)
    return jax.lax.platform_dependent(table, index, cuda=take_two, default=take)


@jax.custom_jvp
def _take_bfloat16(table_VD: jax.Array, index: jax.Array) -> jax.Array:
    """Takes rows as bits on CPUs, where XLA would widen a whole bfloat16 table before it gathers.

    Elsewhere a gather is a gather, and the bits would cost a TPU a copy of the table.
    """

    def take_bits(table_VD: jax.Array, index: jax.Array) -> jax.Array:
        # Tied to the index, the bits are not constant in a loop: before it they would be a copy.
        table_VD, index = jax.lax.optimization_barrier((table_VD, index))
        bits = jax.lax.bitcast_convert_type(table_VD, jnp.uint16)
        return jax.lax.bitcast_convert_type(jnp.take(bits, index, axis=0), jnp.bfloat16)

    return jax.lax.platform_dependent(table_VD, index, cpu=take_bits, default=_take)


@_take_bfloat16.defjvp
def _take_bfloat16_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Bits have no derivative, but rows are linear in their table."""
    table_VD, index = primals
    return _take_bfloat16(table_VD, index), jnp.take(tangents[0], index, axis=0)


def declare(module: nn.Module, records: Mapping[str, Param]) -> dict[str, Any]:
    """A module's parameters, declared in float32 as their records say."""
    return {
        name: module.param(name, record.init, record.shape, jnp.float32)
        for name, record in records.items()
    }


class Weights(nn.Module):
    """Bare parameters: the embedding, the LM head, the stacked matrices of the Medusa heads."""

    records: Mapping[str, Param]

    @nn.compact
    def __call__(self) -> dict[str, Any]:
        """The parameters by name."""
        return declare(self, self.records)


class Linear(nn.Module):
    """y = W x (+ b), computed in `dtype` and returned in `result` (None: the same)."""

    records: Mapping[str, Param]
    dtype: Any
    result: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out]."""
        params = declare(self, self.records)
        y = project(x, params["weight"], self.dtype)
        if "bias" in params:
            bias = params["bias"].astype(jnp.float32)
            y = y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))
        return rounded(y, self.result or self.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, in float32; returns x's dtype."""

    records: Mapping[str, Param]
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        scale = declare(self, self.records)["scale"]
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        # Hugging Face rounds to the compute dtype before it scales.
        return _scaled(y.astype(x.dtype), scale)


@jax.custom_vjp
def _scaled(y: jax.Array, scale_D: jax.Array) -> jax.Array:
    """y [..., D] times a scale rounded to y's dtype.

    The gradient of the scale is a sum over all tokens: JAX would add it up, over the devices of a
    mesh too, in y's dtype.
    """
    return y * jnp.expand_dims(scale_D.astype(y.dtype), tuple(range(y.ndim - 1)))


def _scaled_forward(y: jax.Array, scale_D: jax.Array) -> tuple[jax.Array, Any]:
    return _scaled(y, scale_D), (y, scale_D)


def _scaled_backward(operands: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, scale_D = operands
    wide = grad.astype(jnp.float32) * y.astype(jnp.float32)
    return _scaled(grad, scale_D), wide.sum(tuple(range(y.ndim - 1))).astype(scale_D.dtype)


_scaled.defvjp(_scaled_forward, _scaled_backward)
