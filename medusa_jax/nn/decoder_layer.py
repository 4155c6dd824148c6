"""One layer of a Llama-style decoder: attention and MLP on the residual stream."""

from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.nn.attention import attention
from medusa_jax.nn.layers import Linear, RMSNorm, sum_dtype
from medusa_jax.nn.lora import Lora, adapted
from medusa_jax.nn.packed_attention import Packed, packed_attention
from medusa_jax.nn.params import layer_params
from medusa_jax.nn.prefix_attention import prefix_attention
from medusa_jax.nn.rope import apply_rope
from medusa_jax.nn.scanned import INPUT, PRODUCT

# Rows and width from which a TPU gains by the barrier in `_once`: docs/design/tpu.md.
_FEW_ROWS = 128
_WIDE = 2048


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: LlamaConfig
    dtype: Any
    window: int | None
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BTD, mask_BTT, position_BT, angles, prefix, prefix_length_B, lora=None):
        """Returns the attention's output [B, T, D] and the new (k, v), each [B, T, K, H]."""
        c, records = self.config, layer_params(self.config)["attn"]

        def linear(name: str, x: jax.Array) -> jax.Array:
            result = sum_dtype(self.dtype) if name == "o" else self.dtype
            y = adapted(Linear(records[name], self.dtype, result, name=name), x, lora)
            return checkpoint_name(y, PRODUCT)

        q, k, v = (
            linear(name, x_BTD).reshape(*x_BTD.shape[:2], -1, c.head_dim)
            for name in ("q", "k", "v")
        )
        if c.qk_norm:
            q = RMSNorm(records["q_norm"], c.rms_norm_eps, name="q_norm")(q)
            k = RMSNorm(records["k_norm"], c.rms_norm_eps, name="k_norm")(k)
        if prefix is not None:
            places = (mask_BTT, position_BT, prefix, prefix_length_B)
            out_BTNH, k = prefix_attention(
                q, k, v, angles, *places, window=self.window, mesh=self.mesh
            )
        else:
            q, k = apply_rope(q, *angles), apply_rope(k, *angles)
            attend: Any = packed_attention if isinstance(mask_BTT, Packed) else attention
            out_BTNH = attend(q, k, v, mask_BTT, position_BT, window=self.window)
            out_BTNH = checkpoint_name(out_BTNH, PRODUCT)
        return linear("o", out_BTNH.reshape(*x_BTD.shape[:2], -1)), (k, v)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    config: LlamaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_BTD: jax.Array, lora: Lora | None = None) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        records = layer_params(self.config)["mlp"]

        def linear(name: str, x: jax.Array) -> jax.Array:
            result = sum_dtype(self.dtype)
            y = adapted(Linear(records[name], self.dtype, result, name=name), x, lora)
            return checkpoint_name(y, PRODUCT)

        return linear("down", _once(nn.silu(linear("gate", x_BTD)) * linear("up", x_BTD)))


def _once(x_BTD: jax.Array) -> jax.Array:
    """x, which a TPU then does not compute again for every part of a matrix that multiplies it.

    Its compiler would otherwise make one kernel of a norm and a product. For many rows, a lone row
    and narrow models that is as good or better.
    """
    B, T, D = x_BTD.shape
    if not 1 < B * T <= _FEW_ROWS or D < _WIDE:
        return x_BTD
    return jax.lax.platform_dependent(x_BTD, tpu=jax.lax.optimization_barrier, default=lambda x: x)


class Layer(nn.Module):
    """Pre-norm attention and MLP on the residual stream."""

    config: LlamaConfig
    dtype: Any
    window: int | None
    mesh: Mesh | None = None

    @nn.compact
    def __call__(self, x_BTD, mask_BTT, position_BT, angles, prefix, prefix_length_B, lora=None):
        """Returns the residual stream and the layer's new (k, v)."""
        records, eps = layer_params(self.config), self.config.rms_norm_eps
        x_BTD = checkpoint_name(x_BTD, INPUT)
        y = _once(RMSNorm(records["attn_norm"], eps, name="attn_norm")(x_BTD))
        with jax.named_scope("attention"):
            y, kv = Attention(self.config, self.dtype, self.window, self.mesh, name="attn")(
                y,
                mask_BTT,
                position_BT,
                angles,
                prefix,
                prefix_length_B,
                lora and lora.part("attn"),
            )
        x_BTD = x_BTD + y
        y = _once(RMSNorm(records["mlp_norm"], eps, name="mlp_norm")(x_BTD))
        with jax.named_scope("mlp"):
            y = MLP(self.config, self.dtype, name="mlp")(y, lora and lora.part("mlp"))
        return x_BTD + y, kv
