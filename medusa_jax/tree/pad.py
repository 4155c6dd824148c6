"""Trees of a few sizes, so that different trees share compiled programs."""

import numpy as np

from medusa_jax.tree.build import Tree


def pad_tree(tree: Tree, nodes: int, depth: int, top_k: int) -> Tree:
    """The same tree with the shapes of a larger one.

    Nodes are added that have depth 0, like the root, see only themselves and are no one's parent:
    no acceptance rule takes them (`Draft.is_node`). They belong to no path, so that `paths` and
    `leaf_paths` are for the tree as it was.

    Args:
      tree: without padding.
      nodes: R of the result.
      depth: number of heads that the result claims to need.
      top_k: number of ranks that it claims to need.
    """
    more = nodes - tree.R
    mask_RR = np.eye(nodes, dtype=bool)
    mask_RR[: tree.R, : tree.R] = tree.mask_RR
    arrays = {f"{x}_R": np.pad(getattr(tree, f"{x}_R"), (0, more)) for x in ("depth", "rank")}
    parent_R = np.pad(tree.parent_R, (0, more))
    return Tree(mask_RR=mask_RR, parent_R=parent_R, max_depth=depth, top_k=top_k, **arrays)


def padded(tree: Tree, num_tokens: int) -> Tree:
    """A tree in the shapes of the next size: see `num_padded`.

    The depth stays as it is: heads below the tree would cost a product each, and there are few.

    Args:
      tree: without padding.
      num_tokens: that each head can propose.
    """
    top_k = min(1 << (tree.top_k - 1).bit_length(), num_tokens)
    return pad_tree(tree, num_padded(tree.R), tree.max_depth, top_k)


def num_padded(nodes: int) -> int:
    """Nodes of the program that a tree of some nodes runs in: itself up to 8, then steps of."""
    return nodes
