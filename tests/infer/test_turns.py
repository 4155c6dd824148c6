import itertools
import math

import pytest

from infer.turns import median_interval, median_run, take_turns, until_steady


def test_sides_take_turns_item_by_item_in_every_round():
    calls, ticks = [], []

    def side(name):
        def act(item):
            calls.append(f"{name}{item}")
            return len(calls)

        return act

    answers = take_turns([side("a"), side("b")], [1, 2], 2, lambda: ticks.append(len(calls)))
    assert calls == 2 * ["a1", "b1", "a2", "b2"]
    assert answers == [[[1, 3], [5, 7]], [[2, 4], [6, 8]]]
    assert ticks == list(range(1, 9))


def test_the_median_run_is_the_one_in_the_middle():
    assert median_run([9.0, 3.0, 1.0], lambda run: run) == 3.0
    assert median_run([2.0, 1.0], lambda run: run) == 2.0
    assert median_run(["ccc", "a", "bb"], len) == "bb"


def coverage(n: int) -> float:
    """How often the interval of n values holds the median, by counting all signs of n values."""
    low, high = (sorted(range(n)).index(value) for value in median_interval(range(n)))
    below = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    return sum(low < count <= high for count in below) / 2**n


@pytest.mark.parametrize("n", range(5, 16))
def test_the_interval_holds_the_median_as_often_as_it_says_and_is_no_wider(n):
    low, high = median_interval(range(n))
    assert coverage(n) >= 0.9
    narrower = sum(math.comb(n, k) for k in range(low + 2, high)) / 2**n
    assert low + high == n - 1
    assert narrower < 0.9 or high - low < 2


def test_the_interval_of_few_values_is_all_of_them():
    assert median_interval([3.0]) == (3.0, 3.0)
    assert median_interval([2.0, 9.0, 1.0]) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("ratios", "seconds", "expected"),
    [
        ([1.0] * 99, 1.0, 5),  # as steady as can be
        ([1.0, 2.0] * 99, 1.0, 25),  # never steady
        ([1.0, 2.0, *[1.5] * 99], 1.0, 9),  # an outlier at each end can be left out of 9
        ([1.0, 2.0] * 99, 31.0, 3),  # a minute is over with the third
        ([1.0, 2.0] * 99, 90.0, 3),
    ],
)
def test_rounds_go_on_until_the_median_is_known(ratios, seconds, expected):
    source, ticks, shown = iter(ratios), itertools.count(), []
    rounds = until_steady(
        lambda: next(source),
        float,
        lambda so_far: shown.append(len(so_far)),
        clock=lambda: seconds * next(ticks),
    )
    assert len(rounds) == expected
    assert shown == list(range(1, expected + 1))


def test_one_round_may_have_to_do():
    assert until_steady(lambda: 2.0, float, lambda so_far: None, most=1) == [2.0]
