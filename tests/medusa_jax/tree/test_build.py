"""Golden buffers, random trees against their paths, refused input."""

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.leaf_paths import leaf_paths

# name: nodes per depth, leaves, sum of mask, sum of tree_indices, sum of depth, first row
GOLDEN = {
    "mc_sim_7b_63": ((10, 28, 23, 2), 42, 207, 1029, 143, (0, 1, 11, 39, 63)),
    "vicuna_7b_stage1": ((10, 32, 20, 1), 44, 202, 976, 138, (0, 1, 11, 43, 63)),
    "vicuna_7b_stage1_ablation": ((10, 21, 25, 7), 42, 219, 1142, 155, (0, 1, 12, 42, 63)),
    "vicuna_7b_stage2": ((10, 23, 23, 7), 42, 217, 1117, 153, (0, 1, 12, 43, 63)),
    "vicuna_13b_stage1": ((10, 29, 23, 1), 44, 205, 1015, 141, (0, 1, 11, 40, 63)),
    "vicuna_13b_stage2": ((10, 19, 25, 9), 42, 223, 1182, 159, (0, 2, 21, 49, 63)),
    "vicuna_33b_stage1": ((10, 34, 19), 46, 199, 957, 135, (0, 3, 29, 63)),
    "vicuna_33b_stage2": ((10, 24, 24, 5), 43, 214, 1095, 150, (0, 1, 12, 45, 63)),
    "zephyr_stage2": ((10, 27, 23, 3), 44, 209, 1050, 145, (0, 1, 11, 39, 63)),
}


@st.composite
def random_paths(draw, max_nodes=20, max_rank=12):
    """A prefix-closed list of paths in random order."""
    nodes = [()]
    for _ in range(draw(st.integers(0, max_nodes))):
        parent = draw(st.sampled_from(nodes))
        child = (*parent, draw(st.integers(0, max_rank)))
        if child not in nodes:
            nodes.append(child)
    return [list(path) for path in draw(st.permutations(nodes[1:]))]


def tree_indices(tree):
    """Index into [root, top-10 of head 1, top-10 of head 2, ...], as the original has it."""
    return np.where(tree.depth_R > 0, 1 + 10 * (tree.depth_R - 1) + tree.rank_R, 0)


def rows(tree):
    return [tuple(path) for path in leaf_paths(tree)]


@pytest.mark.parametrize("name", GOLDEN)
def test_presets_match_the_golden_table(name):
    per_depth, leaves, mask, indices, depth, first = GOLDEN[name]
    tree = load_tree(name)
    assert tree.R == 64
    assert tuple(np.bincount(tree.depth_R)[1:]) == per_depth
    assert tree.max_depth == len(per_depth)
    assert leaves == len(leaf_paths(tree))
    assert tree.mask_RR.sum() == mask
    assert tree_indices(tree).sum() == indices
    assert tree.depth_R.sum() == depth
    assert rows(tree)[0] == first
    assert tree.top_k == 10


def test_worked_example():
    tree = build_tree([[0], [1], [0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    assert tree_indices(tree).tolist() == [0, 1, 2, 11, 12, 13, 11, 12, 13]
    assert tree.depth_R.tolist() == [0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert tree.parent_R.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows(tree) == [(0, 2, 8), (0, 2, 7), (0, 2, 6), (0, 1, 5), (0, 1, 4), (0, 1, 3)]
    assert tree.top_k == 3


def test_leaf_paths_are_as_long_as_they_are_deep():
    tree = build_tree([[0], [1], [1, 0], [1, 0, 4]])
    assert leaf_paths(tree) == [[0, 2, 3, 4], [0, 1]]


def test_empty_list_is_the_root_alone():
    tree = build_tree([])
    assert (tree.R, tree.max_depth, tree.top_k) == (1, 0, 1)
    assert tree.mask_RR.tolist() == [[True]]
    assert leaf_paths(tree) == [[0]]
    assert tree.paths() == []


@hypothesis.given(random_paths())
@hypothesis.settings(deadline=None)
def test_buffers_describe_the_paths(paths):
    tree = build_tree(paths)
    nodes = [(), *sorted((tuple(p) for p in paths), key=lambda p: (len(p), p))]
    assert [tuple(path) for path in tree.paths()] == nodes[1:]
    for r, path in enumerate(nodes):
        assert tree.depth_R[r] == len(path)
        assert tree.rank_R[r] == (path[-1] if path else 0)
        assert nodes[tree.parent_R[r]] == path[:-1]
        for c, other in enumerate(nodes):
            assert tree.mask_RR[r, c] == (path[: len(other)] == other)
    assert tree.max_depth == max(map(len, nodes))
    assert tree.top_k == 1 + max((rank for path in paths for rank in path), default=0)
    mask = tree.mask_RR.astype(int)
    assert (((mask @ mask) > 0) == tree.mask_RR).all()  # transitively closed


@hypothesis.given(random_paths())
@hypothesis.settings(deadline=None)
def test_rows_are_the_leaves_walked_backwards(paths):
    nodes = [(), *sorted((tuple(p) for p in paths), key=lambda p: (len(p), p))]
    emitted = []
    for path in reversed(nodes):
        if not any(row[: len(path)] == path for row in emitted):
            emitted.append(path)
    expected = [tuple(nodes.index(row[:d]) for d in range(len(row) + 1)) for row in emitted]
    tree = build_tree(paths)
    assert rows(tree) == expected
    assert {n for row in expected for n in row} == set(range(tree.R))


def test_tree_is_a_pytree_of_four_arrays():
    tree = load_tree("chain:3")
    leaves, treedef = jax.tree.flatten(tree)
    assert [leaf.dtype for leaf in leaves] == [bool, np.int32, np.int32, np.int32]
    assert jax.tree.unflatten(treedef, leaves).max_depth == 3


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([[0], [0, 0, 1]], r"path \[0, 0, 1\] has no parent: add \[0, 0\] to the list"),
        ([[0], [1], [0]], r"path 3, \[0\], is listed twice"),
        ([[0], []], r"path 2 is \[\]"),
        ([[-1]], r"path 1 is \[-1\]"),
        ([[0], [0.5]], r"path 2 is \[0.5\]"),
        ([[True]], r"path 1 is \[True\]"),
        ([3], "path 1 is 3"),
        (["00"], "path 1 is '00'"),
        ([[2**31 - 1]], "path 1 is"),
    ],
)
def test_invalid_paths_are_refused(paths, message):
    with pytest.raises(UserError, match=message):
        build_tree(paths)


def test_numpy_ranks_are_accepted():
    assert build_tree([[np.int64(0)], (np.int32(0), 1)]).R == 3
