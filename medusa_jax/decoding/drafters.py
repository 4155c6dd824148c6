"""Drafters: what a step proposes next, from the hidden state of the last accepted token."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.draft import Draft, root_draft
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import draft_rows, take_rows
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.tree.build import Tree

# Scores of head logits float32 [B, M, V]; of those of a draft vocabulary, whose tokens (int32 [Vd])
# come second: what proposals are ranked by, see `rules.rule.Rule.rank`.
Rank = Callable[[jax.Array, jax.Array | None], jax.Array]


class Drafter(Protocol):
    """How a draft is made; hashable, so that it can be a jit static."""

    @property
    def max_depth(self) -> int:
        """Most tokens that a draft can add to its root."""
        ...

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """The next draft of every row.

        Args:
          params: {"backbone": the base model's, "drafter": this drafter's own}.
          hidden_BD: [B, D] in the compute dtype, the backbone's hidden state at the last accepted
            token, after the final norm.
          root_B: int32 [B], the token after it, which is certain.
          rank: what proposals are ranked by.
        """
        ...


@dataclasses.dataclass(frozen=True)
class NoDrafter:
    """Drafts the root alone: autoregressive decoding."""

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return 0

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        del params, hidden_BD, rank
        return root_draft(root_B)


@dataclasses.dataclass(frozen=True)
class MedusaDrafter:
    """Fills a static tree with the most likely tokens of Medusa heads (paper, section 2.1).

    The original's `generate_candidates`.

    `medusa_drafter` makes it and its parameters.

    Attributes:
      heads: as many as the tree has levels below its root.
      top_k: ranked tokens that the tree needs of each head.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    heads: MedusaConfig
    top_k: int
    dtype: str

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        own = params["drafter"]
        tree: Any = own["tree"]
        with jax.named_scope("medusa_heads"):
            logits_BMV = self._logits(params, hidden_BD, root_B)
            token_map = own["heads"]["token_map"] if self.heads.draft_vocab else None
            _, top_BMk = jax.lax.top_k(rank(logits_BMV, token_map), self.top_k)
        if token_map is not None:
            top_BMk = token_map[top_BMk]
        # A node of depth d and rank r holds head d's r-th token; the root's column is overwritten.
        token_BR = top_BMk[:, jnp.maximum(tree.depth_R - 1, 0), tree.rank_R]
        token_BR = token_BR.astype(jnp.int32).at[:, 0].set(root_B)
        shape = (tree.parent_R[None], tree.depth_R[None], tree.mask_RR[None])
        return Draft(token_BR, *shape, self.max_depth)

    def _logits(self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array) -> jax.Array:
        """Of all heads: float32 [B, M, V], or [B, M, Vd]."""
        own, backbone = params["drafter"], params["backbone"]
        weights = {k: v for k, v in own["heads"].items() if k != "token_map"}
        lm_head_VD = root_BD = None
        if not self.heads.own_projection:
            lm_head_VD = own["lm_head"] if self.heads.draft_vocab else lm_head_weight(backbone)
        if self.heads.root_conditioned:
            root_BD = take_rows(backbone["embed"]["weight"], root_B)
        logits: Any = MedusaHeads(self.heads, jnp.dtype(self.dtype)).apply(
            {"params": weights}, hidden_BD, lm_head_VD, root_BD
        )
        return logits


def medusa_drafter(
    config: MedusaConfig, heads: dict[str, Any], backbone: dict[str, Any], tree: Tree, dtype: str
) -> tuple[MedusaDrafter, dict[str, Any]]:
    """The drafter of a tree, and what it reads.

    Heads deeper than the tree are left out here and not in the compiled step, which would copy the
    others again at every step. The copy lives as long as the result.

    Args:
      config: of the heads, at least as many as the tree has levels.
      heads: their parameters.
      backbone: the base model's.
      tree: what they fill.
      dtype: compute dtype.

    Returns:
      The drafter, and {"heads", "tree"}, with "lm_head" [Vd, D] where heads without projections of
      their own have a draft vocabulary: the rows of the LM head that it names.
    """
    if tree.max_depth < config.num_heads:
        config = dataclasses.replace(config, num_heads=tree.max_depth)
        of_all = {k: v for k, v in heads.items() if k == "token_map"}
        per_head = {k: v for k, v in heads.items() if k != "token_map"}
        heads = of_all | jax.tree.map(lambda x: x[: tree.max_depth], per_head)
    params = {"heads": heads, "tree": tree}
    if config.draft_vocab and not config.own_projection:
        params["lm_head"] = draft_rows(lm_head_weight(backbone), heads["token_map"])
    return MedusaDrafter(config, tree.top_k, dtype), params
