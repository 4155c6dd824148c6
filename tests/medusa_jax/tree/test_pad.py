"""Padded trees: the same nodes, and more that nobody takes."""

import numpy as np
import pytest

from medusa_jax.tree.build import build_tree
from medusa_jax.tree.pad import pad_tree, padded
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


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("nodes", [2, 7, 8, 9, 63, 64])
def test_a_tree_keeps_its_nodes_and_gets_few_more(nodes, platform):
    tree = load_tree(f"mc_sim_7b_63:{nodes}")
    more = padded(tree, 32000, platform)
    for name in ("depth_R", "rank_R", "parent_R"):
        assert getattr(more, name)[:nodes].tolist() == getattr(tree, name).tolist()
    assert (more.mask_RR[:nodes, :nodes] == tree.mask_RR).all()
    sizes = {2: 8, 7: 8, 8: 8, 9: 16, 63: 64, 64: 64}
    assert (nodes if platform == "cpu" else sizes[nodes]) == more.R
    assert (more.max_depth, more.top_k) == (tree.max_depth, 16)


def test_ranks_are_a_power_of_two_and_end_with_the_vocabulary():
    assert padded(build_tree([[16]]), 32000, "cpu").top_k == 32
    assert padded(build_tree([[15]]), 32000, "cpu").top_k == 16
    assert padded(build_tree([[9]]), 12, "cpu").top_k == 12
