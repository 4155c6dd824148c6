"""Dynamic trees: at every step, in every row, the nodes that the heads believe in most.

A node's value is the product of the heads' probabilities along its path. No factor is above 1, so
no node is worth more than its parent: the nodes with the largest values are a tree by themselves.
Of all trees of this size it has the most expected accepted tokens, if the probabilities are right
and the heads independent. Source: DDTree (arXiv 2604.12989).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.decoding.drafting.draft import Draft
from medusa_jax.decoding.drafting.drafters import Proposer, Rank

# Heads are surer of themselves on new text than they should be. docs/benchmarks.md has the figures.
_TEMPERATURE = 1.4
MOST_RANKS = 32  # of a head; higher ones are hardly ever among the best 64 nodes


@dataclasses.dataclass(frozen=True)
class DynamicDrafter:
    """Grows a tree of its own for every row. params["drafter"] is what `make_proposer` gives.

    Attributes:
      proposer: the heads.
      num_nodes: R, root included; fewer come out where the heads do not propose as many.
    """

    proposer: Proposer
    num_nodes: int

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.proposer.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        score_BMV, top_BMk, token_BMk = self.proposer.propose(params, hidden_BD, root_B, rank)
        with jax.named_scope("dynamic_tree"):
            parent_BR, depth_BR, rank_BR = best_nodes(log_p(score_BMV, top_BMk), self.num_nodes)
            row_B1 = jnp.arange(root_B.shape[0], dtype=jnp.int32)[:, None]
            token_BR = token_BMk[row_B1, jnp.maximum(depth_BR - 1, 0), rank_BR]
            mask_BRR = ancestors(parent_BR, self.max_depth)
        token_BR = token_BR.at[:, 0].set(root_B)
        return Draft(token_BR, parent_BR, depth_BR, mask_BRR, self.max_depth)


def log_p(score_BMV: jax.Array, top_BMk: jax.Array) -> jax.Array:
    """Log-probabilities of the best tokens of each head; at most 0, even in floating point."""
    # The maximum, not the first: a slice of what `top_k` gives makes XLA sort the whole vocabulary.
    peak_BM1 = jnp.max(top_BMk, axis=-1, keepdims=True)
    total_BM1 = jnp.sum(jnp.exp((score_BMV - peak_BM1) / _TEMPERATURE), axis=-1, keepdims=True)
    return (top_BMk - peak_BM1) / _TEMPERATURE - jnp.log(total_BM1)


def best_nodes(log_p_BMk: jax.Array, num_nodes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The paths with the largest sums.

    Each depth keeps as many as could be wanted of it: any of the best nodes is among the best of
    its own depth, and so is its parent. At ties the node that is less deep, has the better parent
    or has the lower rank wins, so that a parent always comes before its children.

    Args:
      log_p_BMk: float32 <= 0, log-probability of each head's k best tokens, falling over k.
      num_nodes: R, root included.

    Returns:
      Parents, depths and ranks, int32 [B, R]: the root first, then in the order of falling value. R
      is less than `num_nodes` if there are not that many paths.
    """
    num_heads, num_ranks = log_p_BMk.shape[1:]
    most = num_nodes - 1
    value, offset = log_p_BMk[:, 0, :most], 0
    zero = jnp.zeros(value.shape, jnp.int32)
    rank = zero + jnp.arange(value.shape[1], dtype=jnp.int32)[None]
    levels = [(value, zero - 1, zero + 1, rank)]  # the root is number -1
    for m in range(1, num_heads):
        above_C, rank_C = _candidates(value.shape[1], num_ranks, most)
        value_BC = value[:, above_C] + log_p_BMk[:, m, rank_C]
        value, chosen = jax.lax.top_k(value_BC, min(most, len(above_C)))
        parent = offset + jnp.asarray(above_C)[chosen]
        offset += levels[-1][0].shape[1]
        depth = jnp.full(value.shape, m + 1, jnp.int32)
        levels.append((value, parent, depth, jnp.asarray(rank_C)[chosen]))
    rank_BP = jnp.concatenate([rank for *_, rank in levels], axis=1)
    parent_BR, kept_BN, depth_BR = best_of_levels([level[:3] for level in levels], most)
    return parent_BR, depth_BR, _kept(rank_BP, kept_BN, 0)


def best_of_levels(
    levels: Sequence[tuple[jax.Array, jax.Array, jax.Array]], most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The most valuable nodes of all depths; no node may be worth more than its parent.

    Args:
      levels: by depth the values (float32 [B, C]), parents (int32, numbers in the concatenated
        levels, the root's -1) and depths (int32) of its nodes, in the order of falling value.
      most: nodes wanted below the root.

    Returns:
      Parents int32 [B, R], the numbers of the kept nodes [B, R - 1], and their depths [B, R].
    """
    value_BP, parent_BP, depth_BP = (
        jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)
    )
    _, kept_BN = jax.lax.top_k(value_BP, min(most, value_BP.shape[1]))
    # The root comes before them: number -1, and its own parent.
    number_BR = jnp.pad(kept_BN, ((0, 0), (1, 0)), constant_values=-1)
    above_BR = _kept(parent_BP, kept_BN, -1)
    is_parent_BRR = number_BR[:, None, :] == above_BR[:, :, None]
    parent_BR = jnp.argmax(is_parent_BRR, axis=-1).astype(jnp.int32)
    return parent_BR, kept_BN, _kept(depth_BP, kept_BN, 0)


def _kept(x_BP: jax.Array, kept_BN: jax.Array, of_root: int) -> jax.Array:
    """What the root and the kept nodes have."""
    x_BN = jnp.take_along_axis(x_BP, kept_BN, axis=1)
    return jnp.pad(x_BN, ((0, 0), (1, 0)), constant_values=of_root)


def _candidates(num_above: int, num_ranks: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Which children, of nodes in the order of falling value, can be among the `most` best.

    Child r of node i is worth no more than any child up to r of any node up to i, itself included:
    (i + 1)(r + 1) of them. That leaves about `most` * log(`most`) of all pairs.

    Returns:
      The node and the rank of each, int32, by node and then by rank.
    """
    above, rank = np.indices((num_above, num_ranks), np.int32)
    can_be = (above + 1) * (rank + 1) <= most
    return above[can_be], rank[can_be]


def ancestors(parent_BR: jax.Array, max_depth: int) -> jax.Array:
    """Which nodes each node sees, itself and its ancestors: bool [B, R, R].

    Args:
      parent_BR: int32; the root is its own.
      max_depth: of the deepest node, at most.
    """
    own_1RR = jnp.eye(parent_BR.shape[1], dtype=jnp.bool_)[None]
    mask_BRR = jnp.broadcast_to(own_1RR, (*parent_BR.shape, parent_BR.shape[1]))
    for _ in range(max_depth):  # each time one generation more
        mask_BRR = own_1RR | jnp.take_along_axis(mask_BRR, parent_BR[:, :, None], axis=1)
    return mask_BRR
