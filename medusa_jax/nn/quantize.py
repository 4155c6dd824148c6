"""Weights in 8 bits, or 4 (QLoRA, Dettmers et al., 2023): codes and scales in place of a matrix.

`medusa_jax.nn.product` and `medusa_jax.nn.layers.take_rows` read them. In training a frozen
backbone has quantised matrices in its layers alone, those in 4 bits through the library qwix; a
model that only decodes has them everywhere.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from medusa_jax.errors import UserError

# For nf4: one scale per 64 neighbours in a row, as in QLoRA.
_BLOCK = 64
KINDS = ("none", "int8")  # of a model that only decodes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A weight [..., out, in] of whole numbers with one scale per output.

    The names are those of qwix's arrays, which hold nf4.

    Attributes:
      qvalue: int8, -127 .. 127.
      scale: float32 [..., out, 1]; the weight is scale * qvalue.
    """

    qvalue: jax.Array
    scale: jax.Array

    shape = property(lambda self: self.qvalue.shape)
    ndim = property(lambda self: self.qvalue.ndim)
    dtype = property(lambda self: self.scale.dtype)


def int8(weight: jax.Array) -> Int8:
    """The nearest weight in 8 bits: floating [..., out, in]."""
    wide = weight.astype(jnp.float32)
    scale = jnp.abs(wide).max(axis=-1, keepdims=True) / 127
    codes = jnp.round(wide / jnp.where(scale > 0, scale, 1))
    return Int8(codes.astype(jnp.int8), scale)


def quantize_backbone(params: dict[str, Any], kind: Literal["int8", "nf4"]) -> dict[str, Any]:
    """The backbone with quantised matrices in its layers.

    Args:
      params: of the backbone.
      kind: "int8", or "nf4": 16 levels at the quantiles of a normal distribution.

    Returns:
      The same nested dicts; a quantised matrix is a pytree of its codes and its scales.

    Raises:
      UserError: qwix is not installed, or a matrix cannot be cut into blocks (nf4).
    """
    quantize = jax.jit(int8) if kind == "int8" else _nf4()

    def quantized(path: tuple[Any, ...], weight: jax.Array) -> Any:
        is_matrix = path[0].key.startswith("layers_") and weight.ndim == 2
        return quantize(weight) if is_matrix else weight

    return jax.tree_util.tree_map_with_path(quantized, params)


def _nf4() -> Any:
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            'nf4 needs qwix: pip install "medusa-jax[quant]", or set config.quantize=int8 or none'
        ) from error

    @jax.jit
    def cut(weight: jax.Array) -> Any:
        return qwix.quantize(weight, "nf4", channelwise_axes=(0,), tiled_axes={1: _BLOCK})

    def quantize(weight: jax.Array) -> Any:
        if weight.shape[1] % _BLOCK:
            raise UserError(
                f"a matrix of {weight.shape[1]} columns has no blocks of {_BLOCK}: set "
                "config.quantize=int8"
            )
        return cut(weight)

    return quantize


def int8_matrices(params: Any) -> Any:
    """Parameters of a backbone or of heads with all matrices in 8 bits: for decoding alone.

    Norms, biases and the token map of a draft vocabulary stay as they are, and so does what is
    quantised already.
    """

    def quantized(path: tuple[Any, ...], value: Any) -> Any:
        is_matrix = path[-1].key == "weight" and not is_quantized(value)
        return int8_where_it_lies(value) if is_matrix else value

    return jax.tree_util.tree_map_with_path(quantized, params, is_leaf=is_quantized)


def int8_where_it_lies(weight: jax.Array) -> Int8:
    """Like `int8`: codes on the devices that have the weight, scales on those with its rows."""
    place = weight.sharding
    rows = place
    if isinstance(place, NamedSharding):
        rows = NamedSharding(place.mesh, PartitionSpec(*place.spec[: weight.ndim - 1]))
    shardings: Any = Int8(place, rows)  # pyright: ignore[reportArgumentType]
    return jax.jit(int8, out_shardings=shardings)(weight)


def is_quantized(weight: Any) -> bool:
    """Whether a weight is codes and scales instead of an array."""
    return hasattr(weight, "qvalue")


def channel_scale(weight: Any) -> jax.Array | None:
    """Scales of a quantised weight that multiply its codes as they are.

    Returns:
      Scales of the weight's rank, each axis whole or of size one; None where codes stand for other
      numbers (nf4) or an axis is cut into blocks.
    """
    if isinstance(weight, Int8):
        return weight.scale
    scale, shape = weight.scale, weight.qvalue.shape
    if isinstance(weight.qtype, str) or weight.zero_point is not None:
        return None
    whole = all(size in (1, axis) for size, axis in zip(scale.shape, shape, strict=True))
    return scale if whole else None


def widened(weight: Any, dtype: Any) -> jax.Array:
    """The matrix that a quantised weight stands for, in `dtype`."""
    if isinstance(weight, Int8):
        return (weight.qvalue.astype(jnp.float32) * weight.scale).astype(dtype)
    import qwix

    if weight.qtype != "nf4":
        return qwix.dequantize(weight).astype(dtype)
    one = jnp.ones((1, 1), weight.scale.dtype)
    codes = jnp.arange(16, dtype=jnp.int32).astype(weight.qvalue.dtype)
    levels = qwix.dequantize(dataclasses.replace(weight, qvalue=codes[None], scale=one))[0]
    value = _chosen(weight.qvalue, levels)
    blocks = value.reshape(*weight.scale.shape, -1) * weight.scale[..., None]
    return blocks.reshape(value.shape).astype(dtype)


def multipliable(params: Any, dtype: Any) -> Any:
    """Parameters whose codes can all be multiplied as they are: int8 stays, nf4 is widened once.

    Args:
      params: tree, quantised or not.
      dtype: of the widened matrices.
    """

    def widen(weight: Any) -> Any:
        stays = not is_quantized(weight) or channel_scale(weight) is not None
        return weight if stays else widened(weight, dtype)

    return jax.tree.map(widen, params, is_leaf=is_quantized)


def _chosen(code: jax.Array, levels: jax.Array) -> jax.Array:
    """levels[code] for 16 levels, by the bits of the codes.

    Accelerators look up one element after the other, and a mesh would have to distribute the flat
    codes; these 15 choices become part of whatever comes next.
    """
    bits, values = code.astype(jnp.int32), list(levels)
    while len(values) > 1:
        is_odd = (bits & 1) == 1
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(is_odd, odd, even) for even, odd in pairs]
        bits = bits >> 1
    return values[0]
