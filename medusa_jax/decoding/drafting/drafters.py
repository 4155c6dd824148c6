"""Drafters: what a step proposes next, from the hidden state of the last accepted token."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.drafting.draft import Draft, root_draft, tree_draft
from medusa_jax.nn.branch import first_heads
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import draft_rows, take_rows
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.nn.vocabulary import best_tokens

# (logits float32 [B, X, V], how far from the root the proposed tokens are, int32 [X] or [1], the
# tokens of a draft vocabulary, int32 [Vd]) -> what proposals are ranked by: `rules.rule.Rule.rank`.
Rank = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


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
class Proposer:
    """What Medusa heads propose, whatever tree is made of it.

    Attributes:
      heads: those that are used.
      top_k: proposals wanted of each head.
      dtype: compute dtype: "float32", "bfloat16" or "float16".
    """

    heads: MedusaConfig
    top_k: int
    dtype: str

    def propose(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best tokens of every head; see `Drafter.draft` for the arguments.

        Returns:
          Scores of all tokens that the heads know, float32 [B, M, V] or [B, M, Vd]; the `top_k`
          highest of them, falling, float32 [B, M, k]; and the tokens that have these scores, int32.
        """
        with jax.named_scope("medusa_heads"):
            distance_M = 1 + jnp.arange(self.heads.num_heads, dtype=jnp.int32)
            logits_BMV = self._logits(params, hidden_BD, root_B)
            return best_proposals(params, logits_BMV, distance_M, rank, self.top_k)

    def _logits(self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array) -> jax.Array:
        """Logits of all heads: float32 [B, M, V], or [B, M, Vd]."""
        own, backbone = params["drafter"], params["backbone"]
        weights = {k: v for k, v in own["heads"].items() if k != "token_map"}
        lm_head_VD = None if self.heads.own_projection else shared_lm_head(params)
        branch_B1D = None
        if self.heads.sees_root:
            branch_B1D = take_rows(backbone["embed"]["weight"], root_B[:, None])
        logits: Any = MedusaHeads(self.heads, jnp.dtype(self.dtype)).apply(
            {"params": weights}, hidden_BD, lm_head_VD, branch_B1D
        )
        return logits


def best_proposals(
    params: dict[str, Any], logits_BXV: jax.Array, distance_X: jax.Array, rank: Rank, number: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best tokens of X heads or branches.

    Args:
      params: see `Drafter.draft`.
      logits_BXV: float32, of all tokens that the heads know.
      distance_X: int32 [X] or [1], how far from the root these tokens stand.
      rank: see `Drafter.draft`.
      number: k, how many.

    Returns:
      Scores of all tokens, float32 [B, X, V]; the highest of them, falling, float32 [B, X, k]; and
      the tokens that have these scores, int32.
    """
    token_map = params["drafter"]["heads"].get("token_map")
    score_BXV = rank(logits_BXV, distance_X, token_map)
    top_BXk, token_BXk = best_tokens(score_BXV, number)
    if token_map is not None:
        token_BXk = token_map[token_BXk]
    return score_BXV, top_BXk, token_BXk.astype(jnp.int32)


def shared_lm_head(params: dict[str, Any]) -> Any:
    """The rows of the LM head that heads without projections of their own share: [V or Vd, D]."""
    own = params["drafter"].get("lm_head")
    return lm_head_weight(params["backbone"]) if own is None else own["weight"]


def with_lm_head(
    config: MedusaConfig, heads: dict[str, Any], backbone: dict[str, Any]
) -> dict[str, Any]:
    """What a drafter reads: {"heads"}, and the LM head's rows for a draft vocabulary.

    Args:
      config: of the heads.
      heads: their parameters, with the "token_map" where there is one.
      backbone: the base model's.

    Returns:
      {"heads"}, with "lm_head" {"weight" [Vd, D]} where heads without projections of their own have
      a draft vocabulary: the rows that it names, split as the LM head is on a mesh.
    """
    if not config.draft_vocab or config.own_projection:
        return {"heads": heads}
    lm_head = {"weight": draft_rows(lm_head_weight(backbone), heads["token_map"])}
    return {"heads": heads, "lm_head": lm_head}


def make_proposer(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    *,
    depth: int,
    top_k: int,
    dtype: str,
) -> tuple[Proposer, dict[str, Any]]:
    """The first `depth` heads, and what they read.

    Deeper ones are left out here, not in the compiled step, which would copy the others again at
    every step. The copy lives as long as the result.

    Args:
      config: of the heads, at least `depth`.
      heads: their parameters.
      backbone: the base model's.
      depth: heads to use.
      top_k: proposals wanted of each.
      dtype: compute dtype.

    Returns:
      The proposer, and what `with_lm_head` gives.
    """
    if depth < config.num_heads:
        config, heads = dataclasses.replace(config, num_heads=depth), first_heads(heads, depth)
    return Proposer(config, top_k, dtype), with_lm_head(config, heads, backbone)


@dataclasses.dataclass(frozen=True)
class MedusaDrafter:
    """Fills a static tree with the most likely tokens of Medusa heads (paper, section 2.1).

    The original's `generate_candidates`. params["drafter"] is what `make_proposer` gives, and
    "tree", the `Tree`.

    Attributes:
      proposer: as many heads and ranks as the tree needs.
    """

    proposer: Proposer

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.proposer.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        tree: Any = params["drafter"]["tree"]
        _, _, top_BMk = self.proposer.propose(params, hidden_BD, root_B, rank)
        # A node of depth d and rank r holds head d's r-th token; the root's column is overwritten.
        token_BR = top_BMk[:, jnp.maximum(tree.depth_R - 1, 0), tree.rank_R].at[:, 0].set(root_B)
        return tree_draft(tree, token_BR)
