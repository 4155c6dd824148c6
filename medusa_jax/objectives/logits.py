"""Logits of the base head and of the Medusa heads, from hidden states.

An LM head here is {"weight" [V, D]}, with {"a", "b"} beside it where it has an adapter. The adapter
is not merged: a bfloat16 weight would swallow it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import MedusaConfig
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import draft_rows, project
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.nn.lora import lora_product

LMHead = dict[str, jax.Array]


def lm_heads(params: dict[str, Any]) -> tuple[LMHead, LMHead]:
    """The LM head with its adapter, and the rows of it that the Medusa heads share.

    Args:
      params: {"backbone" and, if there are any, "lora", "token_map" (int32 [Vd])}.

    Returns:
      Both; they are the same where the heads have no draft vocabulary.
    """
    base = {"weight": lm_head_weight(params["backbone"])}
    base |= (params.get("lora") or {}).get("lm_head", {})
    token_map = params.get("token_map")
    rows = {name: draft_rows(base[name], token_map) for name in ("weight", "b") if name in base}
    return base, base | rows


def scoring_params(backbone: dict[str, Any], heads_params: dict[str, Any] | None) -> dict[str, Any]:
    """What single positions are scored with, taken from the parameters of a model.

    Args:
      backbone: as in `medusa_jax.nn.params.backbone_params`.
      heads_params: of the heads, with "token_map" if they have a draft vocabulary; None: none.

    Returns:
      {"heads", "base" (the LM head), "shared" (the rows of it that the heads share), "embed" and,
      if there is one, "token_map"}.
    """
    heads = dict(heads_params or {})
    token_map = {"token_map": heads.pop("token_map")} if "token_map" in heads else {}
    base, shared = lm_heads({"backbone": backbone} | token_map)
    embed = backbone["embed"]["weight"]
    return {"heads": heads, "base": base, "shared": shared, "embed": embed} | token_map


def lm_head_logits(
    lm_head: LMHead,
    hidden: jax.Array,
    *,
    dtype: str,
    lora_scale: float = 1.0,
    hidden_dropped: jax.Array | None = None,
) -> jax.Array:
    """LM head times hidden state.

    Args:
      lm_head: with or without an adapter.
      hidden: [..., D], any float dtype.
      dtype: compute dtype.
      lora_scale: alpha / r.
      hidden_dropped: [..., D], what the adapter sees (after dropout); None: the hidden state.

    Returns:
      float32 [..., V].
    """
    logits = project(hidden, lm_head["weight"], jnp.dtype(dtype))
    if "a" not in lm_head:
        return logits
    x = hidden if hidden_dropped is None else hidden_dropped
    return logits + lora_product(lm_head, x, lora_scale, jnp.dtype(dtype))


def head_logits(
    config: MedusaConfig,
    heads: dict[str, Any],
    lm_head: LMHead,
    hidden: jax.Array,
    branch: jax.Array | None,
    *,
    dtype: str,
    lora_scale: float = 1.0,
) -> jax.Array:
    """Logits of all Medusa heads.

    Args:
      config: of the heads.
      heads: their parameters.
      lm_head: the rows to share; not used by heads with projections of their own.
      hidden: [..., D], the backbone's hidden states.
      branch: [..., J, D], embeddings of the tokens from t + 1 on, see `MedusaHeads`.
      dtype: compute dtype.
      lora_scale: alpha / r.

    Returns:
      float32 [..., M, V].
    """
    module, variables = MedusaHeads(config, jnp.dtype(dtype)), {"params": heads}
    if config.own_projection:
        logits: Any = module.apply(variables, hidden, None, branch)
        return logits
    x: Any = module.apply(variables, hidden, branch, method="hidden")
    logits = lm_head_logits(lm_head, x, dtype=dtype, lora_scale=lora_scale)
    if config.corrects:
        logits = logits + module.apply(variables, x, branch, method="correction")
    return logits
