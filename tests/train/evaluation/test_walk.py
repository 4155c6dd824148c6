"""Steps of decoding, counted by hand."""

import numpy as np

from train.evaluation.walk import count_steps


def test_every_reply_starts_a_step_of_its_own():
    is_root = np.asarray([[0, 1, 1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0]], bool)
    followed = np.asarray([[9, 1, 9, 0, 9, 0, 9, 0], [9] * 8])
    assert count_steps(is_root, followed) == 4


def test_the_example_of_the_docstring():
    assert count_steps(np.ones((1, 5), bool), np.asarray([[2, 0, 1, 1, 0]])) == 2
