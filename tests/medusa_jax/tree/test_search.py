"""The greedy search against all trees at once."""

import itertools
import math

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.search import search_tree


@hypothesis.given(
    arrays.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=st.floats(0, 1)
    ),
    st.data(),
)
def test_no_tree_of_the_same_size_expects_more(accuracy, data):
    accuracy = -np.sort(-accuracy, axis=1)
    M, K = accuracy.shape
    paths = [p for depth in range(1, M + 1) for p in itertools.product(range(K), repeat=depth)]
    size = data.draw(st.integers(1, len(paths)))
    found = search_tree(accuracy, size)
    # A path is at most as likely as what it begins with, so the likeliest paths make a tree.
    likeliest = sorted((probability(accuracy, p) for p in paths), reverse=True)[:size]
    np.testing.assert_allclose(
        sum(probability(accuracy, p) for p in found), sum(likeliest), rtol=1e-12
    )
    assert size + 1 == build_tree(found).R
    assert size // 2 + 1 == build_tree(found[: size // 2]).R


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
