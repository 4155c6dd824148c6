"""Rates against counts and products done by hand, and against simulated steps."""

import json

import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.rates import Rates, expected_tokens, independent_rates, measured_rates

# Depth 1: its parent is the root. Depth 2: children of rank-0 nodes, and of all others.
BY_HAND = Rates(np.array([[[0.5, 0.2, 0.1], [0, 0, 0]], [[0.4, 0.3, 0.0], [0.1, 0.6, 0.0]]]))


def test_products_by_hand():
    tree = build_tree([[0], [2], [0, 1], [2, 1]])
    np.testing.assert_allclose(BY_HAND.of_nodes(tree), [1, 0.5, 0.1, 0.5 * 0.3, 0.1 * 0.6])
    np.testing.assert_allclose(expected_tokens(tree, BY_HAND), 1.81)


def test_what_was_never_measured_is_never_accepted():
    tree = build_tree([[0], [7], [7, 0], [0, 0], [0, 0, 0]])
    assert BY_HAND.of_nodes(tree).tolist() == [1, 0.5, 0, 0.2, 0, 0]


def test_independent_ranks_multiply_along_the_path():
    rates = independent_rates(np.array([[0.5, 0.2], [0.4, 0.3]]))
    np.testing.assert_allclose(rates.of_nodes(build_tree([[1], [1, 1]])), [1, 0.2, 0.2 * 0.3])


def test_json_keeps_every_bit():
    rates = Rates(np.random.default_rng(0).random((2, 3, 4)))
    again = Rates.from_json(json.loads(json.dumps(rates.to_json())))
    np.testing.assert_array_equal(again.rate_MPK, rates.rate_MPK)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.5]], "by head, parent's rank and rank"),
        ([], "by head, parent's rank and rank"),
        ([[[0.5, 1.5]]], "between 0 and 1"),
        ([[[float("nan")]]], "between 0 and 1"),
        ([[[0.5], [0.5, 0.5]]], "not a list of acceptance rates"),
        ([[[10**400]]], "not a list of acceptance rates"),
        ({"rates": 1}, "not a list of acceptance rates"),
        ("0.5", "by head, parent's rank and rank"),
    ],
)
def test_what_are_no_rates(value, message):
    with pytest.raises(UserError, match=message):
        Rates.from_json(value)


def test_beyond_a_rank_that_is_not_told_apart_nothing_is_counted():
    """The second position's first label has rank 2, of ranks 0 and 1."""
    rates = measured_rates(np.array([[0, 1], [2, 0]]), num_ranks=2, num_parents=1)
    np.testing.assert_allclose(rates.rate_MPK, [[[0.5, 0.0]], [[0.0, 1.0]]])


def test_counts_by_hand():
    """Four positions; the third's first label is out of reach, the fourth's text ends."""
    rank_TM = np.array([[0, 1], [1, 0], [5, 0], [0, -1]])
    rates = measured_rates(rank_TM, num_ranks=2, num_parents=1)
    np.testing.assert_allclose(rates.rate_MPK, [[[0.5, 0.25]], [[0.5, 0.5]]])


def test_rows_of_many_counts_are_their_own_and_those_of_none_are_everybodys():
    rank_TM = np.array([[0, 0]] * 3000 + [[1, 1]] * 1000)
    rates = measured_rates(rank_TM, num_ranks=2, num_parents=3)
    np.testing.assert_allclose(rates.rate_MPK[0, 0], [0.75, 0.25])
    np.testing.assert_allclose(rates.rate_MPK[1, 0], [1, 0], atol=0.01)
    np.testing.assert_allclose(rates.rate_MPK[1, 1], [0, 1], atol=0.02)
    np.testing.assert_allclose(rates.rate_MPK[1, 2], [0.75, 0.25])  # no parent of rank 2


def test_expected_tokens_are_the_mean_of_simulated_steps():
    rng = np.random.default_rng(0)
    rank_TM = np.stack([rng.geometric(0.5, 20000) - 1, rng.geometric(0.3, 20000) - 1], axis=1)
    rank_TM[:, 1] += rank_TM[:, 0] % 2  # what is right below depends on what was right above
    tree = build_tree([[0], [1], [2], [0, 0], [0, 1], [1, 0], [1, 1], [2, 0]])
    paths = {tuple(path) for path in tree.paths()}
    accepted = sum((r[:1] in paths) + (r[:2] in paths) for r in map(tuple, rank_TM.tolist()))
    measured = expected_tokens(tree, measured_rates(rank_TM, 4, 4))
    np.testing.assert_allclose(measured, 1 + accepted / len(rank_TM), rtol=2e-3)
    independent = expected_tokens(tree, measured_rates(rank_TM, 4, 1))
    assert abs(independent - measured) > 0.005
