"""Agreement and repetition, counted by hand."""

import collections

import numpy as np
import pytest

from train.reporting.quality import agreed_tokens, compare_answers, repeated_ngrams


@pytest.mark.parametrize(
    ("answer", "original", "agreed"),
    [
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 9, 4], [1, 2, 3, 4], 2),  # what is equal again later does not count
        ([9], [1, 2], 0),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),
        ([], [1], 0),
    ],
)
def test_agreement_ends_at_the_first_difference(answer, original, agreed):
    assert agreed_tokens(answer, original) == agreed


@pytest.mark.parametrize(
    ("answer", "repeated", "all_of_them"),
    [
        ([1, 2, 3, 4, 1, 2, 3, 4], 1, 5),
        ([1, 2, 3, 4, 5], 0, 2),
        ([7] * 10, 6, 7),
        ([1, 2, 3], 0, 0),
        ([], 0, 0),
    ],
)
def test_repetition_by_hand(answer, repeated, all_of_them):
    assert repeated_ngrams(answer) == (repeated, all_of_them)


def test_repetition_is_what_a_counter_finds():
    answer = np.random.default_rng(0).integers(0, 3, 200).tolist()
    counts = collections.Counter("".join(map(str, answer[t : t + 4])) for t in range(197))
    assert repeated_ngrams(answer) == (sum(counts.values()) - len(counts), 197)


def test_a_row_of_both():
    assert compare_answers([5, 6, 6, 6, 6, 6], [5, 6, 7]) == {
        "tokens": 6,
        "original_tokens": 3,
        "agreed": 2,
        "is_identical": 0,
        "repeated": 1,
        "ngrams": 3,
    }
    assert compare_answers([5, 6], [5, 6])["is_identical"] == 1
