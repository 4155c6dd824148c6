"""Drafts of heads that see their branch: the nodes of each depth are filled, then the next depth's.

The heads of a static tree's drafter run once per depth, on all nodes of the depth above that have
children; those of a dynamic tree's, on the best nodes of the depth above.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.branching import Brancher, make_brancher
from medusa_jax.decoding.draft import Draft
from medusa_jax.decoding.drafters import Rank
from medusa_jax.decoding.dynamic import MOST_RANKS, ancestors, best_of_levels, log_p
from medusa_jax.tree.build import Tree
from medusa_jax.tree.dynamic import DynamicTree, heads_used
from medusa_jax.tree.pad import padded

_MOST_EXPANDED = 8  # nodes of one depth of a dynamic tree that may get children


@dataclasses.dataclass(frozen=True)
class BranchDrafter:
    """Fills a static tree. params["drafter"] is what `make_brancher` and `tree_params` give.

    Attributes:
      brancher: as many heads and ranks as the tree needs.
    """

    brancher: Brancher

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.brancher.heads.num_heads

    def for_tree(self, tree: Tree, platform: str) -> "tuple[BranchDrafter, dict[str, Any]]":
        """The same heads for another tree of the same depth, and the arrays that depend on it."""
        tree, own = _tree_params(tree, self.brancher.heads.vocab_size, platform)
        return BranchDrafter(dataclasses.replace(self.brancher, top_k=tree.top_k)), own

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        own = params["drafter"]
        tree: Any = own["tree"]
        start = self.brancher.start(params, hidden_BD, root_B)
        token_BR = jnp.zeros((root_B.shape[0], tree.depth_R.shape[0]), jnp.int32)
        token_BR = token_BR.at[:, 0].set(root_B)
        for depth, nodes_NJ in enumerate(own["parents"], start=1):
            _, _, top_BNk = self.brancher.propose(params, start, token_BR[:, nodes_NJ], rank)
            filled_BR = top_BNk[:, own["place_R"], tree.rank_R]
            token_BR = jnp.where(tree.depth_R[None] == depth, filled_BR, token_BR)
        shape = (tree.parent_R[None], tree.depth_R[None], tree.mask_RR[None])
        return Draft(token_BR, *shape, self.max_depth)


def _tree_params(tree: Tree, num_tokens: int, platform: str) -> tuple[Tree, dict[str, Any]]:
    """A tree with padding, and what its drafter reads.

    Returns:
      The tree; and it as "tree", with "parents": by depth the nodes that have children there, each
      as the nodes from the root to it, int32 [N, depth], N rounded up to a power of two so that
      similar trees share a program; and "place_R": int32, where a node's parent stands among these.
    """
    parents, place_R = [], np.zeros(tree.R, np.int32)
    for depth in range(1, tree.max_depth + 1):
        (here,) = np.nonzero(tree.depth_R == depth)
        nodes, place_R[here] = np.unique(tree.parent_R[here], return_inverse=True)
        paths = np.stack([np.flatnonzero(tree.mask_RR[node]) for node in nodes])
        size = 1 << (len(nodes) - 1).bit_length()
        parents.append(np.pad(paths, ((0, size - len(nodes)), (0, 0)), "edge").astype(np.int32))
    tree = padded(tree, num_tokens, platform)
    place_R = np.pad(place_R, (0, tree.R - len(place_R)))
    return tree, {"tree": tree, "parents": parents, "place_R": place_R}


def branch_drafter(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    tree: Tree,
    dtype: str,
    platform: str,
) -> tuple[BranchDrafter, dict[str, Any]]:
    """The drafter of a static tree, and what it reads; arguments as of `medusa_drafter`."""
    tree, own = _tree_params(tree, config.vocab_size, platform)
    brancher, params = make_brancher(
        config, heads, backbone, depth=tree.max_depth, top_k=tree.top_k, dtype=dtype
    )
    return BranchDrafter(brancher), params | own


@dataclasses.dataclass(frozen=True)
class DynamicBranchDrafter:
    """Grows a tree of its own for every row; see `decoding.dynamic`.

    Only the best nodes of each depth get children, and a node's value is the product of what the
    heads say along its own branch.

    Attributes:
      brancher: the heads.
      num_nodes: R, root included.
    """

    brancher: Brancher
    num_nodes: int

    @property
    def max_depth(self) -> int:
        """See `Drafter.max_depth`."""
        return self.brancher.heads.num_heads

    def draft(
        self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array, rank: Rank
    ) -> Draft:
        """See `Drafter.draft`."""
        start = self.brancher.start(params, hidden_BD, root_B)
        most, batch = self.num_nodes - 1, root_B.shape[0]
        token_BNJ, value_BN = root_B[:, None, None], jnp.zeros((batch, 1), jnp.float32)
        levels, tokens, number = [], [], -1  # of the first node of the level above
        for depth in range(1, self.max_depth + 1):
            score_BNV, top_BNk, token_BNk = self.brancher.propose(params, start, token_BNJ, rank)
            value_BC = (value_BN[..., None] + log_p(score_BNV, top_BNk)).reshape(batch, -1)
            value_BC, chosen_BC = jax.lax.top_k(value_BC, min(most, value_BC.shape[1]))
            above_BC = chosen_BC // top_BNk.shape[-1]
            token_BC = jnp.take_along_axis(token_BNk.reshape(batch, -1), chosen_BC, axis=1)
            depth_BC = jnp.full(value_BC.shape, depth, jnp.int32)
            levels.append((value_BC, above_BC + number, depth_BC))
            tokens.append(token_BC)
            number = 0 if depth == 1 else number + levels[-2][0].shape[1]
            # The best of this level; their branches are those of their parents, and they.
            value_BN, above_BN = value_BC[:, :_MOST_EXPANDED], above_BC[:, :_MOST_EXPANDED]
            branch_BNJ = jnp.take_along_axis(token_BNJ, above_BN[..., None], axis=1)
            token_BNJ = jnp.concatenate([branch_BNJ, token_BC[:, :_MOST_EXPANDED, None]], axis=-1)
        parent_BR, kept_BN, depth_BR = best_of_levels(levels, most)
        token_BN = jnp.take_along_axis(jnp.concatenate(tokens, axis=1), kept_BN, axis=1)
        token_BR = jnp.concatenate([root_B[:, None], token_BN], axis=1)
        mask_BRR = ancestors(parent_BR, self.max_depth)
        return Draft(token_BR, parent_BR, depth_BR, mask_BRR, self.max_depth)


def dynamic_branch_drafter(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    tree: DynamicTree,
    dtype: str,
) -> tuple[DynamicBranchDrafter, dict[str, Any]]:
    """The drafter of a dynamic tree, and what it reads; arguments as of `dynamic_drafter`."""
    brancher, params = make_brancher(
        config,
        heads,
        backbone,
        depth=heads_used(tree, config.num_heads),
        top_k=min(tree.R - 1, MOST_RANKS, config.vocab_size),
        dtype=dtype,
    )
    return DynamicBranchDrafter(brancher, tree.R), params
