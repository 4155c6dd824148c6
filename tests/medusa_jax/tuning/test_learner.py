"""What decoding teaches, against sums done by hand."""

import pytest

from medusa_jax.tuning.learner import TokenLearner


def test_what_is_four_thousand_steps_old_counts_half():
    """First nothing is ever accepted, then everything that was expected."""
    learner = TokenLearner({1: 1.0, 8: 2.0}, 300)
    for _ in range(500):
        learner.update(8, 100, 100)
    assert learner.tokens(8) == pytest.approx(1.0, abs=0.02)
    for _ in range(40):
        learner.update(8, 100, 200)
    assert learner.tokens(8) == pytest.approx(1.5, abs=0.02)


def test_one_token_is_certain():
    """A call may count fewer: a change of trees loses a draft."""
    learner = TokenLearner({1: 1.0, 8: 2.0}, 300)
    learner.update(8, 1000, 0)
    assert learner.tokens(8) == 1.0


def test_a_text_that_is_easier_is_easier_for_all_sizes():
    learner = TokenLearner({1: 1.0, 2: 1.5, 8: 2.0}, 300)
    before = learner.tokens(8)
    learner.update(2, 500, 500 + 375)  # half as much again as expected
    assert before == 2.0
    assert learner.tokens(8) == pytest.approx(1 + 675 / 550, rel=0.02)  # 300 + 375 of 300 + 250
