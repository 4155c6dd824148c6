"""Medusa heads (paper, section 2.1.1): residual blocks over the backbone's last hidden state."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medusa_jax.config import MedusaConfig
from medusa_jax.nn.branch import branch_terms, correction, head_hidden, own_params, unit_size
from medusa_jax.nn.layers import Weights, draft_rows, project, rounded
from medusa_jax.nn.params import heads_params
from medusa_jax.nn.product import product


class MedusaHeads(nn.Module):
    """M heads that run side by side on the same hidden state: p_k = W2_k (SiLU(W1_k h + b1_k) + h).

    With L layers the residual block is repeated with weights of its own; the original code repeats
    one module, so that its L layers share one matrix. Parameters (`heads_params`):
    {"blocks": {"weight": [M, L, D, D], "bias": [M, L, D]}, "projection": {"weight": [M, V, D]}},
    "bias" and "projection" only where the configuration has them. Root-conditioned heads add
    {"root": {"weight": [M, D, D]}}, and their first block is SiLU(W1 h + U e + b1) + h with e the
    embedding of the token at t + 1, scaled to unit root mean square; `nn.branch` has the equations
    of heads that see more. A `token_map` leaf beside them is data for whoever turns draft ids into
    tokens: it is neither declared nor read here.

    Attributes:
      config: the heads.
      dtype: compute dtype; products accumulate in float32, and so does SiLU.
    """

    config: MedusaConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Declares the parameters in the layout of the checkpoint loaders."""
        records = heads_params(self.config)
        self.modules = {name: Weights(record, name=name) for name, record in records.items()}

    def __call__(
        self,
        hidden: jax.Array,
        lm_head_VD: jax.Array | None = None,
        branch: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of every head.

        Args:
          hidden: [..., D], any float dtype: the backbone's hidden state after the final norm.
          lm_head_VD: rows of the LM head to share, already chosen by `token_map` when the heads
            have a draft vocabulary; needed, and used, only without projections of their own.
          branch: [..., J, D], embeddings of the tokens from t + 1 on, at least as many as
            `config.tokens_seen`.

        Returns:
          float32 [..., M, V].

        Raises:
          ValueError: the heads have no projection and no `lm_head_VD` was given, or see tokens
            that were not given.
        """
        x = self.hidden(hidden, branch)
        logits = self.projected(x, lm_head_VD)
        return logits + self.correction(x, branch) if self.config.corrects else logits

    def hidden(self, hidden: jax.Array, branch: jax.Array | None = None) -> jax.Array:
        """What the heads project: hidden [..., D] (and `branch`) -> [..., M, D] in `dtype`."""
        c, dtype = self.config, self.dtype
        _check_seen(c, branch, 1 if c.corrects else c.tokens_seen)
        if branch is not None and c.conditioning in ("branch", "recurrent"):
            params = self._params()
            terms = branch_terms(c, params, branch[..., : c.num_heads, :], dtype)
            each = zip(own_params(c, params), terms, strict=True)
            of_head = [head_hidden(own, hidden, term, dtype) for own, term in each]
            return jnp.stack(of_head, axis=-2)
        return self._side_by_side(hidden, branch)

    def projected(self, hidden: jax.Array, lm_head_VD: Any = None) -> jax.Array:
        """Logits before any correction: hidden [..., M, D] -> float32 [..., M, V]."""
        with jax.named_scope("medusa_projection"):
            if self.config.own_projection:
                return _per_head(hidden, self.modules["projection"]()["weight"], self.dtype)
            if lm_head_VD is None:
                raise ValueError("heads without own projections need the LM head's rows")
            return project(hidden, lm_head_VD, self.dtype)

    def correction(self, hidden: jax.Array, branch: Any) -> jax.Array:
        """What "markov" heads add to their logits: hidden [..., M, D] -> float32 [..., M, V]."""
        _check_seen(self.config, branch, self.config.tokens_seen)
        before = branch[..., : self.config.num_heads, :]
        return correction(self._params(), hidden, before, self.dtype)

    def _params(self) -> dict[str, Any]:
        return {name: module() for name, module in self.modules.items()}

    def _side_by_side(self, hidden: jax.Array, branch: jax.Array | None) -> jax.Array:
        c = self.config
        blocks = self.modules["blocks"]()
        shape = (*hidden.shape[:-1], c.num_heads, c.hidden_size)
        x = jnp.broadcast_to(hidden.astype(self.dtype)[..., None, :], shape)
        with jax.named_scope("medusa_blocks"):
            for layer in range(c.num_layers):
                # Stacked [M, L, ...]; a quantised weight's scales are cut like its codes.
                block = jax.tree.map(lambda stack, layer=layer: stack[:, layer], blocks)
                y = _per_head(x, block["weight"], self.dtype)
                if branch is not None and c.sees_root and layer == 0:
                    e = jnp.broadcast_to(unit_size(branch[..., :1, :]), shape)
                    y = y + _per_head(e, self.modules["root"]()["weight"], self.dtype)
                if c.bias:
                    y = y + jnp.broadcast_to(block["bias"].astype(jnp.float32), shape)
                x = rounded(x.astype(jnp.float32) + nn.silu(y), self.dtype)
        return x


def _check_seen(config: MedusaConfig, branch: jax.Array | None, wanted: int) -> None:
    if wanted > (0 if branch is None else branch.shape[-2]):
        raise ValueError(f"{config.conditioning} heads need {wanted} tokens after each")


def _per_head(x: jax.Array, weight_MFD: Any, dtype: Any) -> jax.Array:
    """Head m's matrix times head m's vector: x [..., M, D] -> float32 [..., M, F]."""
    # XLA's CPU backend refuses a bfloat16 gradient whose batch axis is not the first.
    x_MXD = x.astype(dtype).reshape(-1, *x.shape[-2:]).swapaxes(0, 1)
    y = product("MXD,MFD->MXF", x_MXD, weight_MFD, dtype).swapaxes(0, 1)
    return y.reshape(*x.shape[:-1], weight_MFD.shape[1])


def init_heads(
    config: MedusaConfig,
    lm_head_VD: jax.Array,
    dtype: Any,
    token_map: Any = None,
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Parameters with which every head equals the backbone's LM head.

    W1 = 0 as in the paper; b1 = 0 too, where the original code leaves it random and so starts
    only close to the LM head; W2 = the LM head.

    Args:
      config: the heads.
      lm_head_VD: the whole LM head, [V, D], any float dtype.
      dtype: dtype of the parameters.
      token_map: int [Vd], the draft vocabulary, when the configuration has one.
      key: for what does not begin at 0: the inner matrices of recurrent cells and corrections;
        None: the key of seed 0.

    Returns:
      The parameters in the layout of `MedusaHeads`, with "token_map" (int32) where given.

    Raises:
      ValueError: `token_map` and configuration disagree, or the LM head has another shape.
    """
    c = config
    if (token_map is not None) != c.draft_vocab:
        raise ValueError("token_map must be given exactly when config.draft_vocab is set")
    rows = draft_rows(lm_head_VD, token_map)
    if rows.shape != (c.vocab_size, c.hidden_size):
        raise ValueError(f"LM head rows {rows.shape} do not fit {(c.vocab_size, c.hidden_size)}")
    records, structure = jax.tree.flatten(heads_params(c))
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(records))
    params: dict[str, Any] = structure.unflatten(
        p.init(k, p.shape, dtype) for p, k in zip(records, keys, strict=True)
    )
    if c.own_projection:
        weight = jnp.broadcast_to(rows.astype(dtype), (c.num_heads, *rows.shape))
        params["projection"] = {"weight": weight}
    if token_map is not None:
        params["token_map"] = jnp.asarray(token_map, jnp.int32)
    return params
