"""The drafter that suits heads and tree."""

import dataclasses
from typing import Any

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.drafting.branch_drafters import (
    BranchDrafter,
    DynamicBranchDrafter,
    branches_of,
)
from medusa_jax.decoding.drafting.branching import make_brancher
from medusa_jax.decoding.drafting.drafters import Drafter, MedusaDrafter, make_proposer
from medusa_jax.decoding.drafting.dynamic import MOST_RANKS, DynamicDrafter
from medusa_jax.tree.build import Tree
from medusa_jax.tree.dynamic import AnyTree, DynamicTree, heads_used
from medusa_jax.tree.pad import padded


def make_drafter(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    tree: AnyTree,
    dtype: str,
    platform: str,
) -> tuple[Drafter, dict[str, Any]]:
    """What drafts with these heads, and what it reads; a tree's own arrays are on the host.

    Args:
      config: of the heads, at least as many as the tree has levels.
      heads: their parameters.
      backbone: the base model's.
      tree: of two nodes or more; a static one is padded as suits the platform.
      dtype: compute dtype.
      platform: "cpu", "gpu" or "tpu".
    """
    make: Any = make_brancher if config.sees_branch else make_proposer
    depth = heads_used(tree, config.num_heads)
    if isinstance(tree, DynamicTree):
        top_k = min(tree.R - 1, MOST_RANKS, config.vocab_size)
        proposer, params = make(config, heads, backbone, depth=depth, top_k=top_k, dtype=dtype)
        kind: Any = DynamicBranchDrafter if config.sees_branch else DynamicDrafter
        return kind(proposer, tree.R), params
    own = _tree_params(config, tree, platform)
    top_k = own["tree"].top_k
    proposer, params = make(config, heads, backbone, depth=depth, top_k=top_k, dtype=dtype)
    kind = BranchDrafter if config.sees_branch else MedusaDrafter
    return kind(proposer), params | own


def for_tree(drafter: Any, tree: Tree, platform: str) -> tuple[Drafter, dict[str, Any]]:
    """The drafter of another static tree of the same depth, and the arrays that depend on it.

    Args:
      drafter: a `MedusaDrafter` or a `BranchDrafter`.
      tree: without padding.
      platform: see `make_drafter`.
    """
    own = _tree_params(drafter.proposer.heads, tree, platform)
    proposer = dataclasses.replace(drafter.proposer, top_k=own["tree"].top_k)
    return dataclasses.replace(drafter, proposer=proposer), own


def _tree_params(config: MedusaConfig, tree: Tree, platform: str) -> dict[str, Any]:
    wide = padded(tree, config.vocab_size, platform)
    return {"tree": wide} | (branches_of(tree, wide.R) if config.sees_branch else {})
