"""What training minimises: MEDUSA-1, MEDUSA-2 and self-distilled MEDUSA-2, as pure functions.

The equations are in files named after them; here they meet the network. Parameters are one dict
with the keys "backbone" and "heads", "lora" where adapters are trained, and "token_map" (int32
[Vd]) where the heads have a draft vocabulary. J = M + 1 counts the base head and the Medusa heads.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.nn.layers import take_rows
from medusa_jax.nn.llama import Llama
from medusa_jax.nn.lora import Lora, dropped
from medusa_jax.nn.packed_attention import Packed
from medusa_jax.nn.scanned import Remat, worth_a_copy
from medusa_jax.objectives.accuracy import accuracy_sums, label_rank
from medusa_jax.objectives.blockwise import loss_over_time
from medusa_jax.objectives.cross_entropy import cross_entropy
from medusa_jax.objectives.distance import l1_loss
from medusa_jax.objectives.labels import shift_labels, to_draft_vocabulary
from medusa_jax.objectives.logits import LMHead, head_logits, lm_head_logits, lm_heads
from medusa_jax.objectives.medusa1 import medusa1_loss
from medusa_jax.objectives.medusa2 import medusa2_loss
from medusa_jax.objectives.rows import Rows
from medusa_jax.objectives.self_distill import self_distill_loss
from medusa_jax.pin import Pin
from medusa_jax.tree.build import Tree

Kind = Literal["medusa1", "medusa2", "self_distill"]
HeadLabels = Literal["tokens", "distribution", "l1"]

_OF_HEADS = ("hidden", "branch", "following")  # what the heads' logits are made of


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss over a network (jit static).

    Attributes:
      llama: the backbone.
      heads: the Medusa heads.
      kind: "medusa1": the heads' loss, backbone and adapters fixed; "medusa2": the base head's
        cross-entropy too; "self_distill": the divergence from the original model instead of it.
      head_decay: lambda_k = head_decay ** k (paper, equation 1).
      head_labels: what heads learn (only the first is in the paper): the "tokens"; the base model's
        "distribution" at the position that they predict; "l1", mostly the distance from that.
      stop_lm_head: the heads' loss stops at the LM head that they share, so that only the base
        head's trains it and its adapter (ours; heads with projections of their own share none).
      dtype: compute dtype.
      remat: what layers keep for the backward pass, see `Llama`.
      lora_scale: alpha / r.
      lora_dropout: share of the adapters' inputs that is dropped.
      time_block: time steps whose logits could exist at once for all heads; fewer heads at a time
        take more steps in proportion.
      pin: where the activations lie on a mesh, see `Llama`; None: there is one device.
    """

    llama: LlamaConfig
    heads: MedusaConfig
    kind: Kind = "medusa1"
    head_decay: float = 0.8
    head_labels: HeadLabels = "tokens"
    stop_lm_head: bool = False
    dtype: str = "float32"
    remat: Remat = False
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    time_block: int = 128
    pin: Pin | None = None

    @property
    def soft_labels(self) -> bool:
        """Whether the base model's distributions are needed."""
        return self.head_labels != "tokens"

    def labels(self, params: dict[str, Any], batch: dict[str, Any]) -> jax.Array:
        """labels_BTJ, int32: the base head's in V, the heads' in their vocabulary (or OUTSIDE)."""
        if "hidden" in batch:
            labels_BTJ = jnp.asarray(batch["labels"])
        else:
            labels_BTJ = shift_labels(
                batch["token"], batch["is_label"], batch["segment"], self.heads.num_heads
            )
        if "token_map" not in params:
            return labels_BTJ
        return to_draft_vocabulary(labels_BTJ, params["token_map"], self.llama.vocab_size)

    def loss(
        self,
        params: dict[str, Any],
        batch: dict[str, Any],
        labels_BTJ: jax.Array,
        count_J: jax.Array,
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
            soft labels, of the M positions after it; "next" int [B, T, M], the tokens from t + 1
            on; "labels" int [B, T, J], token ids}.
          labels_BTJ: `self.labels` of it.
          count_J: float32, `count_labels` of the whole batch: the losses of its parts then add up.
          heads_coef: lambda_0 of MEDUSA-2; not used by "medusa1".
          key: of dropout; None: no dropout.
          tree: at most M levels below its root; the sums have "followed" only with it.

        Returns:
          The loss (float32 scalar) and sums for `metrics`: "head_loss" [M], "hits" [TOP, M],
          "labels" [M] (also those OUTSIDE), "followed" (nodes of the tree, without its root), and
          "lm_loss" or "kl".
        """
        if self.kind == "medusa1":
            params = params | {"backbone": jax.lax.stop_gradient(params["backbone"])}
        base, shared = lm_heads(params)
        inputs = self._inputs(params, batch, key)
        medusa1, sums = self._heads_loss(params["heads"], shared, inputs, labels_BTJ, count_J)
        sums |= accuracy_sums(sums.pop("rank"), labels_BTJ, tree)
        if self.kind == "medusa1":
            return medusa1, sums
        name = "lm_loss" if self.kind == "medusa2" else "kl"
        names = ("hidden", "dropped", "original")
        sums[name], _, _ = loss_over_time(
            self._base_loss,
            {"lm_head": base},
            {name: inputs[name] for name in names if name in inputs},
            labels_BTJ[..., 0],
            self._block(1),
            self._rows,
        )
        base_loss = sums[name] / jnp.maximum(count_J[0], 1)
        return medusa2_loss(base_loss, medusa1, heads_coef), sums

    def _heads_loss(
        self,
        heads: dict[str, Any],
        shared: LMHead,
        inputs: dict[str, jax.Array],
        labels_BTJ: jax.Array,
        count_J: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Equation 1, "head_loss" [M] and the "rank" [B, T, M] of every head's label.

        Heads with projections of their own take turns: one of these matrices is in memory at a
        time, and is read for more time steps in proportion. Heads that share a matrix, the LM head
        or their correction's, run side by side.
        """
        M = self.heads.num_heads
        takes_turns = self.heads.own_projection and not (self.soft_labels or self.heads.corrects)
        size = 1 if takes_turns else M
        lm_head = jax.lax.stop_gradient(shared) if self.stop_lm_head else shared
        options = {} if takes_turns else {"lm_head": lm_head}
        inputs = {name: x for name, x in inputs.items() if name in _OF_HEADS}

        def turn(_: None, own: dict[str, Any]) -> tuple[None, tuple[jax.Array, ...]]:
            params = {"heads": own["heads"], "count_M": own["count_M"], "first": own["first"]}
            loss, head_loss_M, rank_BTM = loss_over_time(
                self._turn_loss,
                params | options,
                inputs,
                own["labels"],
                self._block(size),
                self._rows,
            )
            return None, (loss, head_loss_M, rank_BTM)

        own = {
            "heads": jax.tree.map(lambda x: x[:, None] if takes_turns else x[None], heads),
            "count_M": jnp.maximum(count_J[1:], 1).reshape(-1, size),
            "first": jnp.arange(1, M + 1, size, dtype=jnp.int32),
            "labels": _in_turns(labels_BTJ[..., 1:], size),
        }
        _, (loss, head_loss, rank) = jax.lax.scan(turn, None, own)
        rank_BTM = jnp.moveaxis(rank, 0, 2).reshape(*labels_BTJ.shape[:2], M)
        return loss.sum(), {"head_loss": head_loss.reshape(M), "rank": rank_BTM}

    def _turn_loss(
        self, params: dict[str, Any], x: dict[str, jax.Array], labels_BTM: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the heads of a turn add to equation 1 in a block of time steps; see `Loss`."""
        options: Any = {"dtype": self.dtype, "lora_scale": self.lora_scale}
        lm_head = params.get("lm_head", {})
        heads = dataclasses.replace(self.heads, num_heads=labels_BTM.shape[-1])
        logits_BTMV = head_logits(
            heads, params["heads"], lm_head, x["hidden"], x.get("branch"), **options
        )
        teacher_BTMV = None
        if self.soft_labels:  # What only teaches does not learn.
            teacher = jax.lax.stop_gradient(lm_head)
            teacher_BTMV = lm_head_logits(teacher, x["following"], **options)
        if teacher_BTMV is not None and self.head_labels == "l1":
            loss_BTM = l1_loss(logits_BTMV, labels_BTM, teacher_BTMV)
        else:
            loss_BTM = cross_entropy(logits_BTMV, labels_BTM, teacher_BTMV)
        loss_M = loss_BTM.sum((0, 1))
        medusa1 = medusa1_loss(loss_M / params["count_M"], self.head_decay, params["first"])
        return medusa1, loss_M, label_rank(logits_BTMV, labels_BTM)

    def _base_loss(
        self, params: dict[str, Any], x: dict[str, jax.Array], labels_BT: jax.Array
    ) -> tuple[jax.Array, None, None]:
        """The sum of the base head's loss over a block of time steps; see `Loss`."""
        options: Any = {"dtype": self.dtype, "lora_scale": self.lora_scale}
        base_BTV = lm_head_logits(
            params["lm_head"], x["hidden"], hidden_dropped=x.get("dropped"), **options
        )
        if self.kind == "medusa2":
            return cross_entropy(base_BTV, labels_BT).sum(), None, None
        original = jax.lax.stop_gradient({"weight": params["lm_head"]["weight"]})
        original_BTV = lm_head_logits(original, x["original"], **options)
        return self_distill_loss(original_BTV, base_BTV, labels_BT).sum(), None, None

    @property
    def _rows(self) -> Rows:
        return Rows(None if self.pin is None else self.pin.mesh, self.dtype)

    def _block(self, heads: int) -> int:
        """Time steps at once for this many heads; `time_block` is for all of them."""
        return self.time_block * self.heads.num_heads // heads

    def _inputs(
        self, params: dict[str, Any], batch: dict[str, Any], key: jax.Array | None
    ) -> dict[str, jax.Array]:
        """Everything per position that the logits are made of, each [B, T, ...]."""
        inputs = {}
        if "hidden" in batch:
            hidden_BTD = batch["hidden"][:, :, 0]
        elif self.kind == "self_distill":
            hidden_BTD, original_BTD = self._run(params, batch, (self._lora(params, key), None))
            inputs["original"] = jax.lax.stop_gradient(original_BTD)
        else:
            hidden_BTD = self.hidden(params, batch, key=key)
        inputs["hidden"] = hidden_BTD.astype(self.dtype)
        if self.heads.sees_root:
            table_VD = params["backbone"]["embed"]["weight"]
            inputs["branch"] = take_rows(table_VD, self._branch(batch))
        if self.soft_labels:
            inputs["following"] = jax.lax.stop_gradient(self._following(hidden_BTD, batch))
        if params.get("lora") and self.kind != "medusa1":
            own_key = None if key is None else jax.random.fold_in(key, 1)
            inputs["dropped"] = dropped(inputs["hidden"], self.lora_dropout, own_key)
        return inputs

    def _branch(self, batch: dict[str, Any]) -> jax.Array:
        """The tokens after each position that the heads see, int [B, T, J]: the true ones."""
        seen = self.heads.tokens_seen
        if "hidden" in batch:
            return batch["next"][:, :, :seen]
        ahead = range(1, seen + 1)
        return jnp.stack([jnp.roll(batch["token"], -j, axis=1) for j in ahead], axis=2)

    def _following(self, hidden_BTD: jax.Array, batch: dict[str, Any]) -> jax.Array:
        """Hidden states of the M positions after each, [B, T, M, D]; anything beyond the end."""
        if "hidden" in batch:
            return batch["hidden"][:, :, 1:].astype(self.dtype)
        ahead = range(1, self.heads.num_heads + 1)
        return jnp.stack([jnp.roll(hidden_BTD, -k, axis=1) for k in ahead], axis=2)

    def hidden(
        self, params: dict[str, Any], batch: dict[str, Any], *, key: jax.Array | None = None
    ) -> jax.Array:
        """The backbone's hidden states of packed sequences, [B, T, D] in the compute dtype."""
        return self._run(params, batch, (self._lora(params, key),))[0]

    def _run(
        self, params: dict[str, Any], batch: dict[str, Any], loras: tuple[Lora | None, ...]
    ) -> tuple[jax.Array, ...]:
        """The hidden states with each of the adapters; None: of the original model."""
        scan = self.kind != "medusa1" and worth_a_copy(params["backbone"])
        llama = Llama(self.llama, jnp.dtype(self.dtype), self.remat, self.pin, scan)
        packed = Packed(batch["segment"], None if self.pin is None else self.pin.mesh)
        runs: Any = llama.apply(
            {"params": params["backbone"]},
            batch["token"],
            batch["position"],
            packed,
            loras,
            method="each",
        )
        return runs

    def _lora(self, params: dict[str, Any], key: jax.Array | None) -> Lora | None:
        lora = params.get("lora")
        return lora and Lora(lora, self.lora_scale, self.lora_dropout, key)


def _in_turns(labels_BTM: jax.Array, size: int) -> jax.Array:
    """[B, T, M] -> [turns, B, T, size]."""
    return jnp.moveaxis(labels_BTM.reshape(*labels_BTM.shape[:2], -1, size), 2, 0)
