"""Drafts of heads that see their branch: the nodes of each depth are filled, then the next depth's.

Heads run once per depth: for a static tree on all nodes of the depth above that have children, for
a dynamic tree on the best nodes of the depth above.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.decoding.drafting.branching import Brancher
from medusa_jax.decoding.drafting.draft import Draft, tree_draft
from medusa_jax.decoding.drafting.drafters import Rank
from medusa_jax.decoding.drafting.dynamic import ancestors, best_of_levels, log_p
from medusa_jax.tree.build import Tree

_MOST_EXPANDED = 8  # nodes of one depth of a dynamic tree that may get children


@dataclasses.dataclass(frozen=True)
class BranchDrafter:
    """Fills a static tree.

    params["drafter"] is what `make_brancher` and `branches_of` give, and "tree".

    Attributes:
      proposer: as many heads and ranks as the tree needs.
    """

    proposer: Brancher

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.proposer.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        own = params["drafter"]
        tree: Any = own["tree"]
        start = self.proposer.start(params, hidden_BD, root_B)
        token_BR = jnp.zeros((root_B.shape[0], tree.depth_R.shape[0]), jnp.int32)
        token_BR = token_BR.at[:, 0].set(root_B)
        for depth, nodes_NJ in enumerate(own["parents"], start=1):
            _, _, top_BNk = self.proposer.propose(params, start, token_BR[:, nodes_NJ], rank)
            filled_BR = top_BNk[:, own["place_R"], tree.rank_R]
            token_BR = jnp.where(tree.depth_R[None] == depth, filled_BR, token_BR)
        return tree_draft(tree, token_BR)


def branches_of(tree: Tree, size: int) -> dict[str, Any]:
    """What a drafter needs to know of a static tree besides the tree itself.

    Args:
      tree: without padding.
      size: R with it.

    Returns:
      "parents": for each depth, the nodes that have children there, each given as the nodes from
      the root to it, int32 [N, depth], with N rounded up to a power of two so that similar trees
      share a program; and "place_R": int32, where a node's parent stands among these.
    """
    parents, place_R = [], np.zeros(tree.R, np.int32)
    for depth in range(1, tree.max_depth + 1):
        (here,) = np.nonzero(tree.depth_R == depth)
        nodes, place_R[here] = np.unique(tree.parent_R[here], return_inverse=True)
        paths = np.stack([np.flatnonzero(tree.mask_RR[node]) for node in nodes])
        wide = 1 << (len(nodes) - 1).bit_length()
        parents.append(np.pad(paths, ((0, wide - len(nodes)), (0, 0)), "edge").astype(np.int32))
    return {"parents": parents, "place_R": np.pad(place_R, (0, size - tree.R))}


@dataclasses.dataclass(frozen=True)
class DynamicBranchDrafter:
    """Grows a tree of its own for every row; see `decoding.drafting.dynamic`.

    Only the best nodes of each depth get children, and a node's value is the product of what the
    heads say along its own branch.

    Attributes:
      proposer: the heads.
      num_nodes: R, root included.
    """

    proposer: Brancher
    num_nodes: int

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.proposer.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        start = self.proposer.start(params, hidden_BD, root_B)
        most, batch = self.num_nodes - 1, root_B.shape[0]
        token_BNJ, value_BN = root_B[:, None, None], jnp.zeros((batch, 1), jnp.float32)
        levels, tokens, number = [], [], -1  # of the first node of the level above
        for depth in range(1, self.max_depth + 1):
            score_BNV, top_BNk, token_BNk = self.proposer.propose(params, start, token_BNJ, rank)
            value_BC = (value_BN[..., None] + log_p(score_BNV, top_BNk)).reshape(batch, -1)
            value_BC, chosen_BC = jax.lax.top_k(value_BC, min(most, value_BC.shape[1]))
            above_BC = chosen_BC // top_BNk.shape[-1]
            token_BC = jnp.take_along_axis(token_BNk.reshape(batch, -1), chosen_BC, axis=1)
            depth_BC = jnp.full(value_BC.shape, depth, jnp.int32)
            levels.append((value_BC, above_BC + number, depth_BC))
            tokens.append(token_BC)
            number = 0 if depth == 1 else number + levels[-2][0].shape[1]
            # The best of this level; their branches are those of their parents, and themselves.
            value_BN, above_BN = value_BC[:, :_MOST_EXPANDED], above_BC[:, :_MOST_EXPANDED]
            branch_BNJ = jnp.take_along_axis(token_BNJ, above_BN[..., None], axis=1)
            token_BNJ = jnp.concatenate([branch_BNJ, token_BC[:, :_MOST_EXPANDED, None]], axis=-1)
        parent_BR, kept_BN, depth_BR = best_of_levels(levels, most)
        token_BN = jnp.take_along_axis(jnp.concatenate(tokens, axis=1), kept_BN, axis=1)
        token_BR = jnp.concatenate([root_B[:, None], token_BN], axis=1)
        mask_BRR = ancestors(parent_BR, self.max_depth)
        return Draft(token_BR, parent_BR, depth_BR, mask_BRR, self.max_depth)
