"""Paths of a tree, as the original has them."""

import numpy as np

from medusa_jax.tree.build import Tree


def leaf_paths(tree: Tree) -> list[list[int]]:
    """Nodes from the root to each leaf, last leaf first: the original's `retrieve_indices`."""
    leaves = sorted(set(range(tree.R)) - set(tree.parent_R[1:].tolist()), reverse=True)
    # Ancestors come before their descendants, so a leaf's row in ascending order is its path.
    return [np.flatnonzero(tree.mask_RR[leaf]).tolist() for leaf in leaves]
