"""A Llama-style decoder whose forward pass returns the new keys and values instead of storing them.

One call serves prompts, chains and trees: the caller says which new tokens see which (`mask_BTT`),
where they stand (`position_BT`) and what is already committed (`prefix`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medusa_jax.config import LlamaConfig
from medusa_jax.nn.attention import attention
from medusa_jax.nn.layers import Linear, RMSNorm, project, take_rows
from medusa_jax.nn.rope import apply_rope, rope_angles

# Keys and values of every layer: of new tokens each [B, T, K, H]; of a prefix [B, K, H, S] and
# [B, K, S, H] (see `attention`).
LayersKV = tuple[tuple[jax.Array, jax.Array], ...]


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    config: LlamaConfig
    dtype: Any
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, mask_BTT, position_BT, angles, prefix, prefix_length_B):
        """Returns the attention's output [B, T, D] and the new (k, v), each [B, T, K, H]."""
        c = self.config
        q = self._heads("q", c.num_heads, x_BTD)
        k = self._heads("k", c.num_kv_heads, x_BTD)
        v = self._heads("v", c.num_kv_heads, x_BTD)
        if c.qk_norm:
            q = RMSNorm(c.rms_norm_eps, name="q_norm")(q)
            k = RMSNorm(c.rms_norm_eps, name="k_norm")(k)
        q, k = apply_rope(q, *angles), apply_rope(k, *angles)
        out_BTNH = attention(
            q,
            k,
            v,
            mask_BTT,
            position_BT,
            prefix=prefix,
            prefix_length_B=prefix_length_B,
            window=self.window,
        )
        out = out_BTNH.reshape(*x_BTD.shape[:2], c.num_heads * c.head_dim)
        return Linear(c.hidden_size, c.o_bias, self.dtype, name="o")(out), (k, v)

    def _heads(self, name: str, heads: int, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        y = Linear(heads * c.head_dim, c.qkv_bias, self.dtype, name=name)(x_BTD)
        return y.reshape(*x_BTD.shape[:2], heads, c.head_dim)


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    config: LlamaConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """[B, T, D] -> [B, T, D]."""
        c = self.config
        gate = Linear(c.intermediate_size, c.mlp_bias, self.dtype, name="gate")(x_BTD)
        up = Linear(c.intermediate_size, c.mlp_bias, self.dtype, name="up")(x_BTD)
        return Linear(c.hidden_size, c.mlp_bias, self.dtype, name="down")(nn.silu(gate) * up)


class Layer(nn.Module):
    """Pre-norm attention and MLP on the residual stream."""

    config: LlamaConfig
    dtype: Any
    window: int | None

    @nn.compact
    def __call__(self, x_BTD, mask_BTT, position_BT, angles, prefix, prefix_length_B):
        """Returns the residual stream and the layer's new (k, v)."""
        eps = self.config.rms_norm_eps
        y = RMSNorm(eps, name="attn_norm")(x_BTD)
        with jax.named_scope("attention"):
            y, kv = Attention(self.config, self.dtype, self.window, name="attn")(
                y, mask_BTT, position_BT, angles, prefix, prefix_length_B
            )
        x_BTD = x_BTD + y
        with jax.named_scope("mlp"):
            y = MLP(self.config, self.dtype, name="mlp")(RMSNorm(eps, name="mlp_norm")(x_BTD))
        return x_BTD + y, kv


class Llama(nn.Module):
    """The decoder. Parameters: see docs/design.md; computed in `dtype`, whatever they are kept in.

    Attributes:
      config: the architecture.
      dtype: compute dtype; norms, rotations and softmax are float32 all the same.
      remat: layers keep only their input for the backward pass and are computed again there.
    """

    config: LlamaConfig
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        """Declares the parameters in the layout of the checkpoint loaders."""
        c = self.config
        windows = c.windows or (None,) * c.num_layers
        layer = nn.remat(Layer) if self.remat else Layer
        self.embed = _Matrix((c.vocab_size, c.hidden_size))
        self.layers = [layer(c, self.dtype, window) for window in windows]
        self.final_norm = RMSNorm(c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = _Matrix((c.vocab_size, c.hidden_size))

    def __call__(
        self,
        token_BT: jax.Array,
        position_BT: jax.Array,
        mask_BTT: jax.Array,
        *,
        prefix: LayersKV | None = None,
        prefix_length_B: jax.Array | None = None,
        context_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, LayersKV]:
        """Runs T new tokens per row.

        Args:
          token_BT: int32 token ids.
          position_BT: int32 absolute positions.
          mask_BTT: bool [B or 1, T, T], which new token sees which; see `attention`.
          prefix: per layer, keys and values of the committed prefix that all new tokens see; None:
            there is none.
          prefix_length_B: int32, how many slots of the prefix each row has.
          context_BT: int32, see `rope_angles`; default: position + 1.

        Returns:
          hidden_BTD after the final norm, in `dtype` (the input of the LM head and of the Medusa
          heads), and the new keys and values, one (k, v) pair per layer, each [B, T, K, H].
        """
        c = self.config
        context_BT = position_BT + 1 if context_BT is None else context_BT
        angles = rope_angles(c.rope, c.head_dim, position_BT, context_BT)
        x_BTD = take_rows(self.embed(), token_BT).astype(self.dtype)
        new = []
        for i, layer in enumerate(self.layers):
            own = None if prefix is None else prefix[i]
            x_BTD, kv = layer(x_BTD, mask_BTT, position_BT, angles, own, prefix_length_B)
            new.append(kv)
        return self.final_norm(x_BTD), tuple(new)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """LM head: [..., D] -> float32 [..., V]."""
        with jax.named_scope("lm_head"):
            return project(hidden, self.lm_head_weight(), self.dtype)

    def lm_head_weight(self) -> jax.Array:
        """The LM head's matrix [V, D] (the embedding when tied)."""
        return self.embed() if self.config.tie_embeddings else self.lm_head()


class _Matrix(nn.Module):
    """A bare weight matrix."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("weight", nn.initializers.normal(0.02), self.shape, jnp.float32)


def lm_head_weight(params: dict[str, Any]) -> jax.Array:
    """The LM head's matrix [V, D] in a backbone's parameters (the embedding when tied)."""
    return params["lm_head" if "lm_head" in params else "embed"]["weight"]


def causal_mask(length: int) -> jax.Array:
    """bool [1, T, T]: every token sees itself and what precedes it."""
    return jnp.tril(jnp.ones((1, length, length), jnp.bool_))


def packed_mask(segment_BT: jax.Array) -> jax.Array:
    """bool [B, T, T]: causal, within each document of sequences packed with several.

    Args:
      segment_BT: int, the number of each token's document; padding counts as one.
    """
    same = segment_BT[:, :, None] == segment_BT[:, None, :]
    return same & causal_mask(segment_BT.shape[1])
