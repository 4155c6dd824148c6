"""Matrix products that round their operands alike, forwards and backwards."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product(equation: str, x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    """einsum(equation, x, y) of operands rounded to `dtype`, added up in float32.

    The gradient is rounded to `dtype` too before it is multiplied. Left to JAX it would stay
    float32, as the result is, and GPUs would widen the other operand instead: a float32 product,
    several times slower, behind every bfloat16 one.

    Args:
      equation: of two operands; every letter stands in two of "x,y->result" or in all three.
      x: any float dtype, that of its gradient.
      y: likewise.
      dtype: with float32 the product is exact to float32 on every backend; accelerators would
        otherwise round the operands to bfloat16 or TF32.

    Returns:
      float32.
    """
    out: Any = _product(equation, x, y, dtype)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _product(equation: str, x: jax.Array, y: jax.Array, dtype: Any) -> jax.Array:
    return jnp.einsum(
        equation,
        x.astype(dtype),
        y.astype(dtype),
        precision="highest" if dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _forward(equation: str, x: jax.Array, y: jax.Array, dtype: Any) -> tuple[jax.Array, Any]:
    return product(equation, x, y, dtype), (x, y)


def _backward(equation: str, dtype: Any, operands: Any, grad: jax.Array) -> Any:
    x, y = operands
    terms, result = equation.split("->")
    of_x, of_y = terms.split(",")
    grad_x = product(f"{result},{of_y}->{of_x}", grad, y, dtype)
    grad_y = product(f"{result},{of_x}->{of_y}", grad, x, dtype)
    return grad_x.astype(x.dtype), grad_y.astype(y.dtype)


_product.defvjp(_forward, _backward)
