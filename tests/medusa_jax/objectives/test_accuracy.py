"""Ranks, hits and followed nodes against loops over single positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.objectives.accuracy import (
    MISS,
    count_hits,
    expected_tokens,
    followed_nodes,
    label_rank,
)
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.objectives.problems import random_problem
from tests.medusa_jax.packed import quick_jit

TREE_PATHS = [[0], [1], [2], [0, 0], [0, 1], [1, 0], [2, 2], [0, 0, 0], [0, 1, 0], [1, 0, 2]]
jitted_rank = quick_jit(label_rank)


@pytest.mark.parametrize("shape", [(3, 5, 3), (11, 3)])
def test_only_larger_logits_count_against_a_label(shape):
    logits, labels, _ = random_problem(shape, 9)
    rank = np.asarray(jitted_rank(logits, labels))
    assert rank.dtype == np.int32
    for where in np.ndindex(shape):
        own = logits[where][max(labels[where], 0)]
        wanted = sum(other > own for other in logits[where]) if labels[where] >= 0 else MISS
        assert rank[where] == wanted


def test_hits_are_counted_per_head():
    rank = np.array([[0, 3], [1, MISS], [0, 2], [MISS, MISS]], np.int32)
    hits = count_hits(jnp.asarray(rank), 4)
    assert hits.dtype == jnp.float32
    np.testing.assert_array_equal(hits, [[2, 0], [3, 0], [3, 1], [3, 2]])


def test_accepted_nodes_are_those_whose_whole_path_has_the_labels_ranks():
    logits, labels, _ = random_problem((4, 60, 3), 5)
    total = 0
    for b, t in np.ndindex(4, 60):
        own = [logits[b, t, k, max(label, 0)] for k, label in enumerate(labels[b, t])]
        ranks = [
            (logits[b, t, k] > own[k]).sum() if label >= 0 else -1
            for k, label in enumerate(labels[b, t])
        ]
        total += sum(path == ranks[: len(path)] for path in TREE_PATHS)
    assert total > 50  # else the test says little
    followed = quick_jit(followed_nodes)(build_tree(TREE_PATHS), jitted_rank(logits, labels))
    assert followed.shape == (4, 60)
    assert followed.sum() == total


def test_followed_nodes_of_real_trees():
    rng = np.random.default_rng(0)
    rank = np.minimum(rng.geometric(0.5, (300, 5)) - 1, 9).astype(np.int32)
    for name in ("mc_sim_7b_63", "chain:3", "chain:0"):
        tree = load_tree(name)
        paths = {(): 0}
        for node in range(1, tree.R):
            ancestors = np.flatnonzero(tree.mask_RR[node])[1:]
            paths[tuple(int(tree.rank_R[n]) for n in ancestors)] = len(ancestors)
        wanted = [max(paths.get(tuple(row[:d]), 0) for d in range(6)) for row in rank.tolist()]
        np.testing.assert_array_equal(quick_jit(followed_nodes)(tree, rank), wanted)


def test_followed_nodes_by_hand():
    paths = [[0], [1], [2], [0, 0], [0, 1], [1, 0], [0, 0, 0], [3], [0, 2], [2, 1], [2, 1, 0]]
    rank_TM = jnp.asarray(
        [[0, 0, 0], [0, 2, 0], [2, 1, 0], [2, 1, 1], [3, 0, 0], [4, 0, 0], [MISS, 0, 0]], jnp.int32
    )
    assert followed_nodes(build_tree(paths), rank_TM).tolist() == [3, 2, 3, 2, 1, 0, 0]
    assert followed_nodes(build_tree([]), rank_TM).tolist() == [0] * 7


def test_the_example_of_followed_nodes():
    tree = build_tree([[0], [1], [1, 0]])
    assert followed_nodes(tree, jnp.asarray([[1, 0, 3], [0, 0, 3], [2, 0, 0]])).tolist() == [
        2,
        1,
        0,
    ]


def test_every_step_writes_its_root():
    assert expected_tokens(0, 7) == 1.0
    assert expected_tokens(6, 4) == 2.5
