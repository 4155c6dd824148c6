"""Padded trees: the same nodes, and more that nobody takes."""

import numpy as np
import pytest

from medusa_jax.tree.build import build_tree
from medusa_jax.tree.pad import num_padded, pad_tree, padded
from medusa_jax.tree.presets import load_tree


def test_by_hand():
    tree = pad_tree(build_tree([[0], [2], [0, 1]]), 6, 3, 4)
    assert tree.depth_R.tolist() == [0, 1, 1, 2, 0, 0]
    assert tree.rank_R.tolist() == [0, 0, 2, 1, 0, 0]
    assert tree.parent_R.tolist() == [0, 0, 0, 1, 0, 0]
    assert tree.mask_RR.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert (tree.R, tree.max_depth, tree.top_k) == (6, 3, 4)
    assert [tree.depth_R.dtype, tree.rank_R.dtype, tree.parent_R.dtype] == [np.int32] * 3


@pytest.mark.parametrize("nodes", range(1, 65))
def test_a_tree_keeps_its_nodes_and_gets_few_more(nodes):
    tree = load_tree(f"mc_sim_7b_63:{nodes}")
    more = padded(tree, 32000)
    for name in ("depth_R", "rank_R", "parent_R"):
        assert getattr(more, name)[:nodes].tolist() == getattr(tree, name).tolist()
    assert (more.mask_RR[:nodes, :nodes] == tree.mask_RR).all()
    assert nodes <= more.R == num_padded(nodes) <= 1.25 * nodes
    assert more.max_depth == tree.max_depth
    assert tree.top_k <= more.top_k < 2 * tree.top_k


def test_a_padded_size_is_its_own_next_size():
    sizes = [num_padded(nodes) for nodes in range(1, 300)]
    assert sizes == sorted(sizes)
    assert [num_padded(size) for size in sizes] == sizes
    assert num_padded(1) == 1


def test_ranks_end_with_the_vocabulary():
    tree = build_tree([[9]])
    assert padded(tree, 32000).top_k == 16
    assert padded(tree, 12).top_k == 12
