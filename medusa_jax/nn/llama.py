"""A Llama-style decoder whose forward pass returns the new keys and values instead of storing them.

One call serves prompts, chains and trees: the caller says which new tokens see which (`mask_BTT`),
where they stand (`position_BT`) and what is already committed (`prefix`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.nn.decoder_layer import Layer
from medusa_jax.nn.layers import RMSNorm, Weights, project, sum_dtype, take_rows
from medusa_jax.nn.lora import Lora
from medusa_jax.nn.packed_attention import Packed
from medusa_jax.nn.params import backbone_params, untied
from medusa_jax.nn.quantize import multipliable
from medusa_jax.nn.rope import rope_angles
from medusa_jax.nn.scanned import Remat, period, policy, stacked

# Keys and values of every layer: of new tokens each [B, T, K, H]; of a prefix [B, K, H, S] and
# [B, K, S, H] (see `prefix_attention`).
LayersKV = tuple[tuple[jax.Array, jax.Array], ...]


class Llama(nn.Module):
    """The decoder, computed in `dtype`, whatever its parameters are kept in.

    Its parameters are those of `medusa_jax.nn.params.backbone_params`.

    Attributes:
      config: the architecture.
      dtype: compute dtype; norms, rotations and softmax are float32 all the same, and with float16
        so is whatever may exceed its 65504: the residual stream, what is added to it, the MLP.
      remat: what layers keep for the backward pass besides their input; see
        `medusa_jax.nn.scanned.policy`. False: everything.
      pin: where activations lie on a mesh (`medusa_jax.pin.Pin`); None: wherever the compiler
        puts them.
      scan: with a pin, layers are one loop over packed sequences even on devices that have them
        whole (see `medusa_jax.nn.scanned.worth_a_copy`), as where a mesh splits the parameters.
      mesh: what a decoding model is spread over, for kernels; None: it is on one device.
    """

    config: LlamaConfig
    dtype: Any = jnp.float32
    remat: Remat = False
    pin: Any = None
    scan: bool = False
    mesh: Mesh | None = None

    def setup(self) -> None:
        """Declares the parameters in the layout of the checkpoint loaders."""
        c, records = self.config, backbone_params(self.config)
        windows = c.windows or (None,) * c.num_layers
        # As a function that the network calls, a layer is traced once, however many there are.
        layer = nn.remat(Layer, policy=policy(self.remat)) if self.remat else nn.jit(Layer)
        self.embed = Weights(records["embed"])
        self.layers = [layer(c, self.dtype, window, self.mesh) for window in windows]
        self.final_norm = RMSNorm(records["final_norm"], c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = Weights(records["lm_head"])

    def __call__(
        self,
        token_BT: jax.Array,
        position_BT: jax.Array,
        mask_BTT: jax.Array | Packed | None,
        *,
        prefix: LayersKV | None = None,
        prefix_length_B: jax.Array | None = None,
        context_BT: jax.Array | None = None,
        lora: Lora | None = None,
    ) -> tuple[jax.Array, LayersKV]:
        """Runs T new tokens per row.

        Args:
          token_BT: int32 token ids.
          position_BT: int32 absolute positions.
          mask_BTT: bool [B or 1, T, T], which new token sees which, or None, see `attention`; or
            the documents of packed sequences, without a prefix (`packed_attention`).
          prefix: per layer, keys and values of the committed prefix that all new tokens see; None:
            there is none.
          prefix_length_B: int32, how many slots of the prefix each row has.
          context_BT: int32, see `rope_angles`; default: position + 1, as always where layers are
            scanned.
          lora: adapters of the layers' linear maps; None: the network as it is.

        Returns:
          hidden_BTD after the final norm, in `dtype` (the input of the LM head and of the Medusa
          heads), and the new keys and values, one (k, v) pair per layer, each [B, T, K, H]; none
          where layers are scanned.
        """
        if isinstance(mask_BTT, Packed) and self._scans:
            return self.each(token_BT, position_BT, mask_BTT, (lora,))[0], ()
        c = self.config
        context_BT = position_BT + 1 if context_BT is None else context_BT
        angles = rope_angles(c.rope, c.head_dim, position_BT, context_BT)
        x_BTD = self._residual(self._embedded(token_BT))
        new = []
        for i, layer in enumerate(self.layers):
            own = None if prefix is None else prefix[i]
            own_lora = lora and lora.layer(i)
            x_BTD, kv = layer(x_BTD, mask_BTT, position_BT, angles, own, prefix_length_B, own_lora)
            x_BTD = self._residual(x_BTD)
            new.append(kv)
        return self.final_norm(x_BTD).astype(self.dtype), tuple(new)

    def each(
        self,
        token_BT: jax.Array,
        position_BT: jax.Array,
        packed: Packed,
        loras: Sequence[Lora | None],
    ) -> tuple[jax.Array, ...]:
        """Runs packed sequences once with each of some adapters.

        Where layers are scanned, all runs go from layer to layer together, so that a layer's
        matrices are read, and on a mesh gathered, once for all.

        Args:
          token_BT, position_BT, packed: see `__call__`.
          loras: likewise; None: the network as it is.

        Returns:
          hidden_BTD of each.
        """
        if not self._scans:
            return tuple(self(token_BT, position_BT, packed, lora=lora)[0] for lora in loras)
        angles = rope_angles(self.config.rope, self.config.head_dim, position_BT, position_BT + 1)
        x_BTD = self._residual(self._embedded(token_BT))
        runs = self._scanned(x_BTD, packed, position_BT, angles, loras)
        return tuple(self.final_norm(x_BTD).astype(self.dtype) for x_BTD in runs)

    @property
    def _scans(self) -> bool:
        """Whether layers are a loop: if a device has only a part of them, or room for a copy."""
        c = self.config
        if self.pin is None or period(c.windows, c.num_layers) == c.num_layers:
            return False
        return self.scan or self.pin.splits_parameters

    def _scanned(
        self,
        x_BTD: jax.Array,
        packed: Packed,
        position_BT: jax.Array,
        angles: Any,
        loras: Sequence[Lora | None],
    ) -> tuple[jax.Array, ...]:
        """All layers, once with each of `loras`; only one period of them is compiled."""
        c, size = self.config, period(self.config.windows, self.config.num_layers)
        windows = (c.windows or (None,))[:size]

        def stack(params: Any) -> Any:
            names = [f"layers_{i}" for i in range(c.num_layers)]
            layers = [params[name] for name in names if name in params]
            return tuple(self.pin.stack(part) for part in stacked(layers, size)) if layers else None

        def step(streams: tuple[jax.Array, ...], own: Any) -> tuple[tuple[jax.Array, ...], None]:
            number, params, adapters = self._whole(own)
            for i, window in enumerate(windows):
                layer = Layer(c, self.dtype, window, parent=None)
                new = []
                for x_BTD, lora, adapter in zip(streams, loras, adapters, strict=True):
                    own_lora = adapter and lora and lora.layer(number + i, adapter[i])
                    x_BTD, _ = layer.apply(
                        {"params": params[i]}, x_BTD, packed, position_BT, angles, None, None,
                        own_lora,
                    )  # fmt: skip
                    new.append(self._residual(x_BTD))
                streams = tuple(new)
            return streams, None

        if self.remat:
            step = jax.checkpoint(step, policy=policy(self.remat), prevent_cse=False)
        numbers = jnp.arange(0, c.num_layers, size, dtype=jnp.int32)
        own = (
            numbers,
            stack(self.variables["params"]),
            [lora and stack(lora.params) for lora in loras],
        )
        return jax.lax.scan(step, (x_BTD,) * len(loras), own)[0]

    def _whole(self, own: Any) -> Any:
        """A layer's parameters, gathered at one point for all that is multiplied by them.

        Only where layers are computed again in the backward pass, which gathers them again: if they
        were kept, the gathered parameters of all layers would be in memory at once.
        """
        if not (self.remat and self.pin.splits_parameters):
            return own
        number, *params = own
        return number, *multipliable(self.pin.whole(params, self.dtype), self.dtype)

    def _embedded(self, token_BT: jax.Array) -> jax.Array:
        x_BTD = take_rows(self.embed()["weight"], token_BT).astype(sum_dtype(self.dtype))
        return x_BTD if self.pin is None else self.pin.embedded(x_BTD)

    def _residual(self, x_BTD: jax.Array) -> jax.Array:
        """The residual stream before and after every layer."""
        return x_BTD if self.pin is None else self.pin.residual(x_BTD)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """LM head: [..., D] -> float32 [..., V]."""
        lm_head = self.embed if self.config.tie_embeddings else self.lm_head
        with jax.named_scope("lm_head"):
            return project(hidden, lm_head()["weight"], self.dtype)


def lm_head_weight(params: dict[str, Any]) -> jax.Array:
    """The LM head's matrix [V, D] in a backbone's parameters (the embedding when tied)."""
    return untied(params)["lm_head"]["weight"]


def causal_mask(length: int) -> jax.Array:
    """bool [1, T, T]: every token sees itself and what precedes it."""
    return jnp.tril(jnp.ones((1, length, length), jnp.bool_))
