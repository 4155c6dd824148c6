"""Greedy acceptance against plain walks over the lists of paths."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.decoding.rules.judging import (
    assert_accepted,
    greedy,
    numbered,
    random_case,
    random_paths,
)
from tests.medusa_jax.leaf_paths import leaf_paths


def walk_greedy(paths, tokens_R, best_R):
    """The longest accepted path; of several, the one whose last node comes first."""
    number, leaves = numbered(paths)
    longest = [0]
    for leaf in leaves:
        nodes = [0]
        for depth in range(1, len(leaf) + 1):
            node = number[leaf[:depth]]
            if tokens_R[node] != best_R[nodes[-1]]:
                break
            nodes.append(node)
        longest = min(longest, nodes, key=lambda nodes: (-len(nodes), nodes[-1]))
    return longest


@hypothesis.given(random_paths(), st.integers(0, 2**32 - 1))
@hypothesis.settings(deadline=None, max_examples=15)
def test_greedy_equals_a_walk(paths, seed):
    tree, tokens_BR, logits_BRV = random_case(paths, seed)
    best_BR = logits_BRV[..., :3].argmax(-1).astype(np.int32)
    expected = [walk_greedy(paths, t, b) for t, b in zip(tokens_BR, best_BR, strict=True)]
    verdict = greedy(tree, tokens_BR, best_BR)
    assert_accepted(verdict, expected)
    last_R = [nodes[-1] for nodes in expected]
    assert verdict.next_root_B.tolist() == best_BR[np.arange(len(best_BR)), last_R].tolist()


def test_greedy_accepts_whole_paths():
    tree = load_tree("mc_sim_7b_63")
    tokens_BR = np.arange(64, dtype=np.int32)[None]
    for path in leaf_paths(tree):
        best_BR = np.full((1, 64), -1, np.int32)
        best_BR[0, path[:-1]] = path[1:]
        assert_accepted(greedy(tree, tokens_BR, best_BR), [path])


@pytest.mark.parametrize("best_at_leaf", [0, 1, 2])
def test_nothing_is_accepted_below_a_leaf(best_at_leaf):
    """The original pads its paths and reads a padded slot as token 0, which may then match."""
    tree = build_tree([[0], [1], [0, 0]])  # [1] is node 2, a leaf above the tree's depth
    tokens_BR = np.array([[1, 4, 1, 0]], np.int32)
    best_BR = np.array([[1, 4, best_at_leaf, 0]], np.int32)
    assert_accepted(greedy(tree, tokens_BR, best_BR), [[0, 2]])


def test_root_alone_accepts_nothing():
    tree = build_tree([])
    token_BR = np.zeros((3, 1), np.int32)
    assert_accepted(greedy(tree, token_BR, token_BR), [[0]] * 3)
