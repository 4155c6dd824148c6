"""Trees of a few sizes, so that different trees share compiled programs."""

import numpy as np

from medusa_jax.tree.build import Tree

_MIN_RANKS = 16
_ROWS = 8


def pad_tree(tree: Tree, nodes: int, depth: int, top_k: int) -> Tree:
    """The same tree with the shapes of a larger one.

    Nodes are added that have depth 0, like the root, see only themselves and are no one's parent:
    no acceptance rule takes them (`Draft.is_node`). They belong to no path, so `paths` is only
    right on the tree as it was.

    Args:
      tree: without padding.
      nodes: R of the result.
      depth: its `max_depth`.
      top_k: its `top_k`.
    """
    more = nodes - tree.R
    mask_RR = np.eye(nodes, dtype=bool)
    mask_RR[: tree.R, : tree.R] = tree.mask_RR
    arrays = {f"{x}_R": np.pad(getattr(tree, f"{x}_R"), (0, more)) for x in ("depth", "rank")}
    parent_R = np.pad(tree.parent_R, (0, more))
    return Tree(mask_RR=mask_RR, parent_R=parent_R, max_depth=depth, top_k=top_k, **arrays)


def padded(tree: Tree, num_tokens: int, platform: str) -> Tree:
    """A tree in the shapes of the next size, where that costs next to nothing.

    Ranks: a power of two, at least 16. Nodes: a multiple of 8 on accelerators, whose matrix units
    take 8 rows or more at a time; on a CPU every row costs, so none is added. The depth stays: each
    head reads weights of its own (docs/design/drafts.md has the costs).

    Args:
      tree: without padding.
      num_tokens: how many each head can propose.
      platform: "cpu", "gpu" or "tpu".
    """
    top_k = min(max(_MIN_RANKS, 1 << (tree.top_k - 1).bit_length()), num_tokens)
    nodes = tree.R if platform == "cpu" else -(-tree.R // _ROWS) * _ROWS
    return pad_tree(tree, nodes, tree.max_depth, top_k)
