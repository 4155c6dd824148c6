"""What training minimises: MEDUSA-1, MEDUSA-2 and self-distilled MEDUSA-2, as pure functions.

Parameters are one dict with the keys "backbone" and "heads", "lora" where adapters are trained, and
"token_map" (int32 [Vd]) where the heads have a draft vocabulary.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import project, take_rows
from medusa_jax.nn.llama import Llama, lm_head_weight, packed_mask
from medusa_jax.nn.lora import adapt, dropped, lora_product
from medusa_jax.objectives.blockwise import loss_over_time
from medusa_jax.objectives.labels import (
    IGNORE,
    OUTSIDE,
    divergence_sum,
    head_sums,
    shift_labels,
)
from medusa_jax.tree.build import Tree

Kind = Literal["medusa1", "medusa2", "self_distill"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss over a network (jit static).

    Attributes:
      llama: the backbone.
      heads: the Medusa heads.
      kind: "medusa1": the heads' loss, backbone and adapters fixed; "medusa2": the base head's
        cross-entropy too; "self_distill": the divergence from the original model instead of it.
      head_decay: lambda_k = head_decay ** k (paper, equation 1).
      soft_labels: heads learn the base model's distribution at the position that they predict
        instead of the token there (ours; not in the paper).
      dtype: compute dtype.
      remat: layers are computed again in the backward pass instead of being kept.
      lora_scale: alpha / r.
      lora_dropout: share of the adapters' inputs that is dropped.
      time_block: time steps whose logits exist at once.
    """

    llama: LlamaConfig
    heads: MedusaConfig
    kind: Kind = "medusa1"
    head_decay: float = 0.8
    soft_labels: bool = False
    dtype: str = "float32"
    remat: bool = False
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    time_block: int = 128

    def labels(self, params: dict[str, Any], batch: dict[str, Any]) -> jax.Array:
        """int32 [B, T, M + 1]: the base head's labels in V, the heads' in theirs (or OUTSIDE)."""
        if "hidden" in batch:
            ignored = jnp.full((*batch["labels"].shape[:-1], 1), IGNORE, jnp.int32)
            labels = jnp.concatenate([ignored, batch["labels"]], axis=-1)
        else:
            labels = shift_labels(
                batch["token"], batch["is_label"], batch["segment"], self.heads.num_heads
            )
        if "token_map" not in params:
            return labels
        draft_id_V = jnp.full((self.llama.vocab_size,), OUTSIDE, jnp.int32)
        draft_id_V = draft_id_V.at[params["token_map"]].set(
            jnp.arange(params["token_map"].shape[0], dtype=jnp.int32)
        )
        own = jnp.where(labels == IGNORE, IGNORE, draft_id_V[jnp.maximum(labels, 0)])
        return jnp.concatenate([labels[..., :1], own[..., 1:]], axis=-1)

    def loss(
        self,
        params: dict[str, Any],
        batch: dict[str, Any],
        labels: jax.Array,
        count: jax.Array,
        *,
        heads_coef: jax.Array | float = 1.0,
        key: jax.Array | None = None,
        tree: Tree | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of (a part of) a batch.

        Args:
          params: see the module.
          batch: packed sequences {"token", "is_label", "segment", "position"}, each [B, T]; or, for
            "medusa1", hidden states computed before: {"hidden" [B, T, 1 or M + 1, D], of t and, for
            soft labels, of the M positions behind it; "next" int [B, T], the tokens at t + 1;
            "labels" int [B, T, M]}.
          labels: `self.labels` of it.
          count: float32 [M + 1], labels per head in the whole batch: parts of it then add up.
          heads_coef: lambda_0 of MEDUSA-2; not used by "medusa1" (paper, equation 2).
          key: of dropout; None: no dropout.
          tree: see `head_sums`.

        Returns:
          The loss (float32 scalar) and sums for `metrics`: "head_loss" [M], "hits" [TOP, M],
          "labels" [M], "accepted" where a tree is given, and "lm_loss" or "kl".
        """
        if self.kind == "medusa1":
            params = params | {"backbone": jax.lax.stop_gradient(params["backbone"])}
        parts = self._parts(params, batch, key) | {"labels": labels}
        fixed = {"count": count, "heads_coef": heads_coef, "tree": tree}
        given = {"heads": params["heads"], "matrices": _matrices(params)} | fixed
        return loss_over_time(self._loss, given, parts, self.time_block)

    def _loss(
        self, given: dict[str, Any], part: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What some time steps add to the loss and to the sums."""
        sums = self._sums(given["heads"], given["matrices"], part, given["tree"])
        count, decay = given["count"], range(1, self.heads.num_heads + 1)
        weight_M = jnp.asarray([self.head_decay**k for k in decay], jnp.float32)
        loss = (weight_M * sums["head_loss"] / count[1:]).sum()
        if self.kind == "medusa1":
            return loss, sums
        base = sums["lm_loss" if self.kind == "medusa2" else "kl"] / count[0]
        return base + given["heads_coef"] * loss, sums

    def _parts(self, params: dict[str, Any], batch: dict[str, Any], key) -> dict[str, jax.Array]:
        """Everything per position that the logits are made of."""
        if "hidden" in batch:
            hidden, next_BT = batch["hidden"][:, :, 0], batch["next"]
        else:
            hidden = self.hidden(params, batch, key=key)
            next_BT = jnp.roll(batch["token"], -1, axis=1)
        parts = {"hidden": hidden.astype(self.dtype)}
        if self.heads.root_conditioned:
            parts["root"] = take_rows(params["backbone"]["embed"]["weight"], next_BT)
        if self.soft_labels:
            parts["following"] = jax.lax.stop_gradient(self._following(hidden, batch))
        if self.kind == "self_distill":
            original = self.hidden(params | {"lora": None}, batch)
            parts["original"] = jax.lax.stop_gradient(original)
        if params.get("lora") and self.kind != "medusa1":
            own_key = None if key is None else jax.random.fold_in(key, 1)
            parts["dropped"] = dropped(parts["hidden"], self.lora_dropout, own_key)
        return parts

    def _following(self, hidden_BTD: jax.Array, batch: dict[str, Any]) -> jax.Array:
        """Hidden states of the M positions behind each, [B, T, M, D]; any behind the end."""
        if "hidden" in batch:
            return batch["hidden"][:, :, 1:].astype(self.dtype)
        ahead = range(1, self.heads.num_heads + 1)
        return jnp.stack([jnp.roll(hidden_BTD, -k, axis=1) for k in ahead], axis=2)

    def hidden(
        self, params: dict[str, Any], batch: dict[str, Any], *, key: jax.Array | None = None
    ) -> jax.Array:
        """The backbone's hidden states of packed sequences, [B, T, D] in the compute dtype."""
        llama = Llama(self.llama, jnp.dtype(self.dtype), self.remat)
        with adapt(params.get("lora"), self.lora_scale, self.lora_dropout, key):
            hidden_BTD: Any = llama.apply(
                {"params": params["backbone"]},
                batch["token"],
                batch["position"],
                packed_mask(batch["segment"]),
            )[0]
        return hidden_BTD

    def _sums(
        self,
        heads: dict[str, Any],
        matrices: dict[str, Any],
        part: dict[str, jax.Array],
        tree: Tree | None,
    ) -> dict[str, jax.Array]:
        logits = self._head_logits(heads, matrices["draft"], part)
        teacher = None
        if self.soft_labels:
            teacher = jax.lax.stop_gradient(self._logits(matrices["draft"], part["following"]))
        sums = head_sums(logits, part["labels"][..., 1:], teacher=teacher, tree=tree)
        sums["head_loss"] = sums.pop("loss")
        if self.kind == "medusa1":
            return sums
        return sums | self._base_sums(matrices["base"], part)

    def _head_logits(
        self, heads: dict[str, Any], matrix: dict[str, jax.Array], part: dict[str, jax.Array]
    ) -> jax.Array:
        module, variables = MedusaHeads(self.heads, jnp.dtype(self.dtype)), {"params": heads}
        hidden, root = part["hidden"], part.get("root")
        if self.heads.own_projection:
            logits: Any = module.apply(variables, hidden, None, root)
            return logits
        x: Any = module.apply(variables, hidden, root, method="hidden")
        return self._logits(matrix, x)

    def _logits(
        self, matrix: dict[str, jax.Array], x: jax.Array, x_adapter: jax.Array | None = None
    ) -> jax.Array:
        """Of one of `_matrices`; its adapter sees `x_adapter` where that is given."""
        y = project(x, matrix["weight"], jnp.dtype(self.dtype))
        if "a" not in matrix:
            return y
        x = x if x_adapter is None else x_adapter
        return y + lora_product(matrix, x, self.lora_scale, jnp.dtype(self.dtype))

    def _base_sums(
        self, matrix: dict[str, jax.Array], part: dict[str, jax.Array]
    ) -> dict[str, jax.Array]:
        labels = part["labels"][..., 0]
        logits = self._logits(matrix, part["hidden"], part.get("dropped"))
        if self.kind == "self_distill":
            original = self._logits({"weight": matrix["weight"]}, part["original"])
            teacher = jax.lax.stop_gradient(original)
            return {"kl": divergence_sum(teacher, logits, labels)}
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return {"lm_loss": jnp.where(labels == IGNORE, 0.0, entropy).sum()}


def metrics(sums: dict[str, jax.Array], count: jax.Array) -> dict[str, jax.Array]:
    """Means over labels from the sums of a whole batch.

    Args:
      sums: of `Objective.loss`, added up over the parts of the batch.
      count: float32 [M + 1], `count_labels` of its labels.

    Returns:
      "head_loss", "head_top1" .. "head_top5" (float32 [M]) and, where there are sums for them,
      "lm_loss" or "kl", and "accepted": expected tokens per step of the tree (scalars). The latter
      takes every position with a label for the first head as a root, whatever the tree accepts.
      Labels outside a draft vocabulary have no loss, but are misses.
    """
    out = {"head_loss": sums["head_loss"] / count[1:]}
    labels_M = jnp.maximum(sums["labels"], 1)
    for k, hits_M in enumerate(sums["hits"]):
        out[f"head_top{k + 1}"] = hits_M / labels_M
    for name in ("lm_loss", "kl"):
        if name in sums:
            out[name] = sums[name] / count[0]
    if "accepted" in sums:
        out["accepted"] = 1.0 + sums["accepted"] / labels_M[0]
    return out


def _matrices(params: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """The LM head with its adapter ("weight", and "a" and "b"), and the rows that the heads share.

    Gathered once for all blocks of time; the adapter is not merged: in bfloat16 it would be lost.
    """
    backbone = params["backbone"]
    base = {"weight": lm_head_weight(backbone)} | (params.get("lora") or {}).get("lm_head", {})
    if "token_map" not in params:
        return {"base": base, "draft": base}
    rows = {name: base[name][params["token_map"]] for name in ("weight", "b") if name in base}
    return {"base": base, "draft": base | rows}
