"""The search against all trees at once, for rates of any kind."""

import itertools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.rates import Rates
from medusa_jax.tree.search import best_tree, search_tree

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
# Halves make ties, also with the root.
RATES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0]))


def value(rate_MPK, path):
    """Product along the path, read off the definition."""
    rates = [
        rate_MPK[depth, min(parent, rate_MPK.shape[1] - 1), rank]
        for depth, (parent, rank) in enumerate(zip((0, *path), path, strict=False))
    ]
    return math.prod(rates)


def all_trees(num_heads, num_ranks, size):
    """Every prefix-closed set of `size` paths."""
    trees = {frozenset()}
    for _ in range(size):
        trees = {
            tree | {(*parent, rank)}
            for tree in trees
            for parent in (*tree, ())
            for rank in range(num_ranks)
            if len(parent) < num_heads and (*parent, rank) not in tree
        }
    return trees


@hypothesis.given(arrays.arrays(np.float64, SHAPES, elements=RATES), st.data())
@hypothesis.settings(deadline=None)
def test_no_tree_of_the_same_size_expects_more(rate_MPK, data):
    M, _, K = rate_MPK.shape
    size = data.draw(st.integers(1, min(5, sum(K**depth for depth in range(1, M + 1)))))
    found = best_tree(Rates(rate_MPK), size)
    assert size + 1 == build_tree(found).R
    best = max(sum(value(rate_MPK, p) for p in tree) for tree in all_trees(M, K, size))
    np.testing.assert_allclose(sum(value(rate_MPK, p) for p in found), best, rtol=1e-12)
    values = [value(rate_MPK, p) for p in found]
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(values))
    for beginning in range(1, size):
        build_tree(found[:beginning])


def test_a_second_guess_that_is_right_more_often_comes_first():
    """The paper's growth, first child and next sibling, would have taken [0] on the way to [1]."""
    rate_MPK = np.array([[[0.1, 0.6], [0.0, 0.0]], [[0.9, 0.1], [0.2, 0.7]]])
    assert best_tree(Rates(rate_MPK), 3) == [[1], [1, 1], [1, 0]]


@hypothesis.given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=st.floats(0, 1)
    ),
    st.data(),
)
@hypothesis.settings(deadline=None)
def test_of_independent_ranks_the_likeliest_paths_are_the_tree(accuracy, data):
    M, K = accuracy.shape
    paths = [p for depth in range(1, M + 1) for p in np.ndindex((K,) * depth)]
    size = data.draw(st.integers(1, len(paths)))
    found = search_tree(accuracy, size)
    likeliest = sorted((probability(accuracy, p) for p in paths), reverse=True)[:size]
    np.testing.assert_allclose(
        sum(probability(accuracy, p) for p in found), sum(likeliest), rtol=1e-12
    )
    assert size + 1 == build_tree(found).R


def probability(accuracy, path):
    return math.prod(accuracy[head, rank] for head, rank in enumerate(path))


def test_a_tree_by_hand():
    accuracy = np.array([[0.5, 0.2, 0.1], [0.4, 0.3, 0.0]])
    found = search_tree(accuracy, 6)
    assert found == [[0], [0, 0], [1], [0, 1], [2], [1, 0]]


@pytest.mark.parametrize("size", [0, 7])
def test_a_size_that_cannot_be(size):
    with pytest.raises(UserError, match="choose 1 to 6"):
        search_tree(np.full((2, 2), 0.5), size)
