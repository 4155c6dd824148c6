"""The longest accepted path: trees that differ from row to row, padding, scores and ties."""

import jax.numpy as jnp
import numpy as np

from medusa_jax.decoding.drafting.draft import Draft
from medusa_jax.decoding.rules.rule import longest_path
from medusa_jax.tree.build import build_tree


def two_trees():
    """Row 0: root-1-2 and root-3; row 1: root-1, root-2, and two nodes of padding."""
    first, second = build_tree([[0], [1], [0, 0]]), build_tree([[0], [1]])
    parent_BR, depth_BR = np.zeros((2, 5), np.int32), np.zeros((2, 5), np.int32)
    mask_BRR = np.tile(np.eye(5, dtype=bool), (2, 1, 1))
    for row, tree in enumerate((first, second)):
        parent_BR[row, : tree.R], depth_BR[row, : tree.R] = tree.parent_R, tree.depth_R
        mask_BRR[row, : tree.R, : tree.R] = tree.mask_RR
    token_BR = jnp.zeros((2, 5), jnp.int32)
    return Draft(token_BR, *map(jnp.asarray, (parent_BR, depth_BR, mask_BRR)), max_depth=2)


def judged(draft, ok, score=None):
    score_BR = None if score is None else jnp.asarray(score, jnp.float32)
    num_B, nodes_BA, last_B = longest_path(draft, jnp.asarray(ok, bool), score_BR)
    return num_B.tolist(), nodes_BA.tolist(), last_B.tolist()


def test_every_row_has_its_own_tree():
    everything = np.ones((2, 5), bool)
    assert judged(two_trees(), everything) == ([2, 1], [[0, 1, 3], [0, 1, 1]], [3, 1])


def test_padding_is_never_accepted_and_the_root_always():
    only_padding = [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert judged(two_trees(), only_padding) == ([0, 0], [[0, 0, 0], [0, 0, 0]], [0, 0])


def test_a_node_below_a_refused_one_does_not_count():
    assert judged(two_trees(), [[1, 0, 1, 1, 0], [1, 0, 1, 0, 0]])[0] == [1, 1]


def test_scores_decide_between_equally_deep_nodes_and_the_lowest_wins_a_tie():
    ok = np.ones((2, 5), bool)
    tree = build_tree([[0], [1], [0, 0], [1, 0]])  # nodes 3 and 4 are both of depth 2
    shape = (jnp.asarray(x)[None] for x in (tree.parent_R, tree.depth_R, tree.mask_RR))
    draft = Draft(jnp.zeros((2, 5), jnp.int32), *shape, max_depth=2)
    # Sums of row 0: -1 - 3 against -2 - 1; of row 1: equal. The root's own score never counts.
    score = [[9, -1, -2, -3, -1], [-9, -1, -2, -2, -1]]
    assert judged(draft, ok, score)[2] == [4, 3]


def test_a_path_of_score_minus_infinity_is_still_the_longest():
    ok = np.asarray([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0]])
    score = np.full((2, 5), -np.inf)
    assert judged(two_trees(), ok, score) == ([2, 1], [[0, 1, 3], [0, 1, 1]], [3, 1])


def test_a_score_of_minus_infinity_off_the_path_harms_nothing():
    score = np.zeros((2, 5))
    score[:, 2] = -np.inf
    ok = np.ones((2, 5), bool)
    ok[:, 2] = False
    assert judged(two_trees(), ok, score)[2] == [3, 1]
