"""A frozen backbone in 8 or 4 bits (QLoRA, Dettmers et al., 2023), through the library qwix.

Only the matrices of the layers are quantised, and only for training: embeddings, LM head and norms
stay as they are. `medusa_jax.nn.product` and `medusa_jax.nn.layers.take_rows` read them.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from medusa_jax.errors import UserError

# Scales: one per row for int8; one per 64 neighbours of a row for nf4, as in QLoRA.
_BLOCK = 64


def quantize_backbone(params: dict[str, Any], kind: Literal["int8", "nf4"]) -> dict[str, Any]:
    """The backbone with quantised matrices in its layers.

    Args:
      params: of the backbone.
      kind: "int8", or "nf4": 16 levels at the quantiles of a normal distribution.

    Returns:
      The same nested dicts; a quantised matrix is a pytree of its codes and its scales.

    Raises:
      UserError: qwix is not installed, or a matrix cannot be cut into blocks.
    """
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            'quantising needs qwix: pip install "medusa-jax[quant]", or set config.quantize=none'
        ) from error

    qtype = jnp.int8 if kind == "int8" else kind
    tiles = {1: _BLOCK} if kind == "nf4" else {}

    def quantized(path: tuple[Any, ...], weight: jax.Array) -> Any:
        if not (path[0].key.startswith("layers_") and weight.ndim == 2):
            return weight
        if weight.shape[1] % _BLOCK and tiles:
            raise UserError(
                f"a matrix of {weight.shape[1]} columns has no blocks of {_BLOCK}: set "
                "config.quantize=int8"
            )
        return jax.jit(lambda w: qwix.quantize(w, qtype, channelwise_axes=(0,), tiled_axes=tiles))(
            weight
        )

    return jax.tree_util.tree_map_with_path(quantized, params)


def is_quantized(weight: Any) -> bool:
    """Whether a weight is codes and scales instead of an array."""
    return hasattr(weight, "qvalue")


def channel_scale(weight: Any) -> jax.Array | None:
    """Scales of a quantised weight that multiply its codes as they are.

    Returns:
      Of the weight's rank, each axis whole or of size one; None where codes stand for other numbers
      (nf4) or an axis is cut into blocks.
    """
    scale, shape = weight.scale, weight.qvalue.shape
    if isinstance(weight.qtype, str) or weight.zero_point is not None:
        return None
    whole = all(size in (1, axis) for size, axis in zip(scale.shape, shape, strict=True))
    return scale if whole else None


def widened(weight: Any, dtype: Any) -> jax.Array:
    """The matrix that a quantised weight stands for, in `dtype`."""
    import qwix

    if weight.qtype != "nf4":
        return qwix.dequantize(weight).astype(dtype)
    one = jnp.ones((1, 1), weight.scale.dtype)
    codes = jnp.arange(16, dtype=jnp.int32).astype(weight.qvalue.dtype)
    levels = qwix.dequantize(dataclasses.replace(weight, qvalue=codes[None], scale=one))[0]
    value = _chosen(weight.qvalue, levels)
    blocks = value.reshape(*weight.scale.shape, -1) * weight.scale[..., None]
    return blocks.reshape(value.shape).astype(dtype)


def _chosen(code: jax.Array, levels: jax.Array) -> jax.Array:
    """levels[code] for 16 levels, by the bits of the codes.

    Accelerators look up one element after the other, and a mesh would have to share out the flat
    codes; these 15 choices are a part of whatever comes next.
    """
    bits, values = code.astype(jnp.int32), list(levels)
    while len(values) > 1:
        is_odd = (bits & 1) == 1
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [jnp.where(is_odd, odd, even) for even, odd in pairs]
        bits = bits >> 1
    return values[0]
