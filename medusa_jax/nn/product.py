"""Matrix products that round their operands alike, forwards and backwards, quantised or not."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.nn.quantize import channel_scale, is_quantized, widened

# Numbers of rows for which `_weight_first` was faster on a CPU with AVX-512 (docs/design/cpu.md).
_WEIGHT_FIRST = {"float32": range(2, 65), "bfloat16": (16, 32, 64)}
_TPU_ROWS = 8  # of a tile of its registers
# For int8 codes on a CPU: most bytes that are widened at once, and rows that are worth a turn.
_BLOCK_BYTES = 2**21
_SMALL_BLOCK = 16


def product(equation: str, x: jax.Array, y: Any, dtype: Any) -> jax.Array:
    """einsum(equation, x, y) of operands rounded to `dtype`, added up in float32.

    The gradient is rounded to `dtype` too before it is multiplied. Left to JAX it would stay
    float32, as the result is, and GPUs would widen the other operand instead: a float32 product,
    several times slower, after every bfloat16 one.

    Args:
      equation: of two operands; every letter stands in two of "x,y->result" or in all three.
      x: any float dtype, which its gradient has too.
      y: likewise; or a quantised matrix (see `quantize_backbone`), which has no gradient. Codes
        with one scale per row are multiplied as they are, and the scale is applied to the result.
      dtype: with float32 the product is exact to float32 on every backend; accelerators would
        otherwise round the operands to bfloat16 or TF32.

    Returns:
      float32.
    """
    out: Any = _product(equation, x, y, dtype)
    return out


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _product(equation: str, x: jax.Array, y: Any, dtype: Any) -> jax.Array:
    factor = None
    if is_quantized(y):
        x, y, factor = _taken_apart(equation, x, y)
    if factor is None:
        return _dot(equation, x.astype(dtype), y.astype(dtype))
    return factor * jax.lax.platform_dependent(
        x.astype(dtype),
        y,
        cpu=functools.partial(_by_blocks, equation),
        default=lambda x, codes: _dot(equation, x, codes.astype(dtype)),
    )


def _forward(equation: str, x: jax.Array, y: Any, dtype: Any) -> tuple[jax.Array, Any]:
    return product(equation, x, y, dtype), (x, y)


def _backward(equation: str, dtype: Any, operands: Any, grad: jax.Array) -> Any:
    x, y = operands
    of_x, of_y, result = _terms(equation)
    grad_x = product(f"{result},{of_y}->{of_x}", grad, y, dtype).astype(x.dtype)
    if is_quantized(y):
        return grad_x, None
    return grad_x, product(f"{result},{of_x}->{of_y}", grad, x, dtype).astype(y.dtype)


_product.defvjp(_forward, _backward)


def _terms(equation: str) -> tuple[str, str, str]:
    operands, result = equation.split("->")
    of_x, of_y = operands.split(",")
    return of_x, of_y, result


def _taken_apart(
    equation: str, x: jax.Array, y: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """x, plain numbers in place of a quantised y, and the factor of the product, if it has one.

    W[f, d] = scale[f] * code[f, d]: forwards f is an axis of the result, which is scaled; backwards
    the gradient is summed over f, so it is scaled first. Codes of smaller blocks are widened.
    """
    of_x, of_y, result = _terms(equation)
    scale = channel_scale(y)
    if scale is None:
        return x, widened(y, y.dtype), None
    varies = {letter for letter, size in zip(of_y, scale.shape, strict=True) if size > 1}
    if varies <= set(result):
        return x, y.qvalue, _aligned(scale, of_y, result)
    if varies <= set(of_x):
        return x.astype(jnp.float32) * _aligned(scale, of_y, of_x), y.qvalue, None
    return x, widened(y, y.dtype), None


def _aligned(scale: jax.Array, letters: str, wanted: str) -> jax.Array:
    """Axes `letters`, all but `wanted` of size one, in the order of `wanted`: float32."""
    kept = "".join(letter for letter in wanted if letter in letters)
    scale = jnp.einsum(f"{letters}->{kept}", scale.astype(jnp.float32))
    missing = [axis for axis, letter in enumerate(wanted) if letter not in letters]
    return jnp.expand_dims(scale, missing)


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum in float32; few rows are multiplied in the way that is fast on the platform."""
    of_x, of_y, result = _terms(equation)
    plain = functools.partial(_einsum, equation)
    rows = [letter for letter in of_x if letter not in of_y]
    if len(rows) != 1:
        return plain(x, y)
    num_rows = x.shape[of_x.index(rows[0])]
    # A weight is [..., out, in].
    has_weight = of_y[-1] not in result and y.shape[-2] % 2 == 0
    ways: dict[str, Callable[..., jax.Array]] = {}
    if num_rows == 1:
        ways["tpu"] = functools.partial(_repeated, _TPU_ROWS)
    if x.dtype == jnp.bfloat16 and num_rows == 1:
        ways["cpu"] = functools.partial(_repeated, 2)
    elif has_weight and num_rows in _WEIGHT_FIRST.get(x.dtype.name, ()):
        ways["cpu"] = _weight_first
    if not ways:
        return plain(x, y)
    chosen = {key: functools.partial(way, equation, rows[0]) for key, way in ways.items()}
    return jax.lax.platform_dependent(x, y, **chosen, default=plain)


def _by_blocks(equation: str, x: jax.Array, codes: jax.Array) -> jax.Array:
    """Some rows of the codes at a time, so that what they are widened to stays in the caches.

    XLA's CPU backend widens a matrix in memory before it multiplies, and moves out of a loop what
    does not change in it: decoding would first widen all matrices, and read these from then on.
    """
    assert equation[-1] == _terms(equation)[1][-2]
    *batch, rows, columns = codes.shape
    row_bytes = math.prod(batch) * columns * x.dtype.itemsize
    sizes = [n for n in range(1, rows // 2 + 1) if rows % n == 0 and n * row_bytes <= _BLOCK_BYTES]
    if not sizes or sizes[-1] < min(_SMALL_BLOCK, rows // 2):
        x, codes = jax.lax.optimization_barrier((x, codes))  # keeps it inside the loop
        return _dot(equation, x, codes.astype(x.dtype))
    # Block i has the rows i, i + blocks, ...: rows split over devices stay where they are.
    blocks = rows // sizes[-1]
    strided = codes.reshape(*batch, sizes[-1], blocks, columns)

    def multiply(i: jax.Array) -> jax.Array:
        block = jax.lax.dynamic_index_in_dim(strided, i, len(batch) + 1, keepdims=False)
        return _dot(equation, x, block.astype(x.dtype))

    out = jnp.moveaxis(jax.lax.map(multiply, jnp.arange(blocks, dtype=jnp.int32)), 0, -1)
    return out.reshape(*out.shape[:-2], rows)


def _einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(
        equation,
        x,
        y,
        precision="highest" if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )


def _repeated(times: int, equation: str, row: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Repeats a lone row: two bfloat16 rows are faster on a CPU, and eight give a TPU a matrix.

    The two take a tenth of the time. A TPU multiplies a lone row with vector instructions, by its
    compiler's cycles four times as slowly as it reads the weights.
    """
    of_x, _, result = _terms(equation)
    out = _einsum(equation, jnp.concatenate([x] * times, axis=of_x.index(row)), y)
    return jax.lax.slice_in_dim(out, 0, 1, axis=result.index(row))


def _weight_first(equation: str, row: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """y x^T, transposed: the backend reads its left operand as it is, and repacks the right one.

    It would also undo a plain transposition, but leaves one of two halves alone.
    """
    of_x, of_y, result = _terms(equation)
    assert result[-2:] == row + of_y[-2]
    out = _einsum(f"{of_y},{of_x}->{result[:-2]}{of_y[-2]}{row}", y, x)
    *batch, F, X = out.shape
    return jnp.moveaxis(out.reshape(*batch, 2, F // 2, X), -1, -3).reshape(*batch, X, F)
