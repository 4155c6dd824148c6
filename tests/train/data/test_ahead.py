"""Batches made ahead: the same ones, at the same positions."""

import grain
import pytest

from train.data.ahead import Ahead


def source():
    return iter(grain.MapDataset.range(10).to_iter_dataset())


@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_positions_are_those_of_the_batches_given_away(ahead):
    batches, plain = Ahead(source(), lambda x: x + 100), source()
    for number in range(4):
        batches.fill(ahead)
        assert batches.get_state() == plain.get_state()
        assert next(batches) == next(plain) + 100 == number + 100
    state = batches.get_state()
    batches.fill(ahead)
    assert next(batches) == 104
    batches.set_state(state)
    assert [next(batches), next(batches)] == [104, 105]


def test_so_many_are_made_and_no_more():
    made = []
    batches = Ahead(source(), lambda x: made.append(x) or x)
    batches.fill()
    batches.fill()
    assert made == [0, 1]
    next(batches)
    batches.fill()
    assert made == [0, 1, 2]
