import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medusa_jax.tuning.times import Point, StepTimes, rising_fit

sizes = st.integers(1, 64)
seconds = st.floats(1e-4, 10.0)
points = st.lists(
    st.builds(Point, sizes, sizes, st.sampled_from([256, 1024]), seconds), min_size=1, max_size=12
)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6))
def test_rising_fit_is_the_nearest_rising_sequence(values):
    """Brute force: the optimum is constant on blocks, with each block's mean."""
    best = np.inf
    for cuts in itertools.product([0, 1], repeat=len(values) - 1):
        blocks = np.split(np.array(values), np.flatnonzero(cuts) + 1)
        fit = np.concatenate([np.full(len(b), b.mean()) for b in blocks])
        if (np.diff(fit) >= 0).all():
            best = min(best, ((fit - values) ** 2).sum())
    found = rising_fit(values)
    assert (np.diff(found) >= 0).all()
    assert ((found - values) ** 2).sum() == pytest.approx(best, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(points, sizes, sizes, st.integers(256, 4096))
def test_larger_never_takes_less(measured, nodes, batch, slots):
    times = StepTimes(tuple(measured))
    here = times.seconds(nodes, batch, slots)
    base = times.seconds(nodes, batch, 256)
    assert 0 < base * (1 - 1e-9) <= here or slots == 256 or min(p.slots for p in measured) > 256
    assert times.seconds(nodes + 1, batch, slots) >= here * (1 - 1e-9)
    assert times.seconds(nodes, batch + 1, slots) >= here * (1 - 1e-9)


def test_measured_points_that_rise_are_kept_and_joined_by_lines():
    times = StepTimes((Point(1, 1, 256, 0.02), Point(1, 4, 256, 0.05), Point(4, 1, 256, 0.04)))
    assert times.seconds(1, 1, 256) == pytest.approx(0.02)
    assert times.seconds(2, 1, 256) == pytest.approx(0.03)  # a third of the way
    assert times.seconds(1, 2, 256) == pytest.approx(0.02 + 0.02 / 3)
    assert times.seconds(8, 1, 256) == pytest.approx(0.10)  # in proportion beyond
    assert times.seconds(1, 8, 256) == pytest.approx(0.08)


def test_a_short_curve_of_a_smaller_batch_does_not_outweigh_what_was_measured():
    """One row ends at two nodes, twice as slow as one; four rows have room for 32."""
    four = {1: 16.0, 4: 16.5, 8: 17.0, 16: 18.0, 32: 20.0}
    points = [Point(1, 1, 256, 8.0), Point(1, 2, 256, 16.0)]
    points += [Point(4, nodes, 256, seconds) for nodes, seconds in four.items()]
    times = StepTimes(tuple(points))
    for nodes, seconds in four.items():
        assert times.seconds(nodes, 4, 256) == pytest.approx(seconds)
    assert times.seconds(2, 1, 256) == pytest.approx(16.0)
    # Less than 64, what two nodes would make of eight: four rows took no more than this.
    assert times.seconds(8, 1, 256) == pytest.approx(17.0)
    assert times.seconds(64, 1, 256) == pytest.approx(40.0)


def test_of_several_measurements_of_a_size_the_median_counts():
    points = (*(Point(1, 4, 256, s) for s in (0.05, 0.9, 0.04)), Point(1, 1, 256, 0.02))
    assert StepTimes(points).seconds(4, 1, 256) == pytest.approx(0.05)


def test_slots_cost_what_larger_caches_showed():
    """A machine whose steps take 10 ms + (2 us + 1 us per node) for each slot of a row."""

    def true(batch, nodes, slots):
        return 0.01 * nodes + batch * slots * (2e-6 + 1e-6 * nodes)

    where = [(1, 1, 256), (1, 8, 256), (4, 1, 256), (4, 8, 256), (1, 1, 1024), (1, 8, 1024)]
    times = StepTimes(tuple(Point(*at, true(*at)) for at in where))
    for at in [(1, 1, 4096), (1, 8, 512), (4, 8, 2048)]:
        batch, nodes, slots = at
        assert times.seconds(nodes, batch, slots) == pytest.approx(true(*at), rel=1e-6)


def test_slots_cost_what_each_batch_size_showed():
    """A slot costs eight rows less than eight times as much."""

    def true(batch, nodes, slots):
        each = {1: 2e-6, 8: 0.5e-6}[batch] + 1e-6 * nodes
        return 0.01 * nodes * batch + batch * slots * each

    where = [(b, n, s) for b in (1, 8) for n in (1, 8) for s in (256, 1024)]
    times = StepTimes(tuple(Point(*at, true(*at)) for at in where))
    for at in [(1, 8, 4096), (8, 1, 512), (8, 8, 2048)]:
        batch, nodes, slots = at
        assert times.seconds(nodes, batch, slots) == pytest.approx(true(*at), rel=1e-6)

    def more(batch):
        return times.seconds(1, batch, 1280) - times.seconds(1, batch, 256)

    assert more(4) == pytest.approx(more(1) + (more(8) - more(1)) * 3 / 7)
    assert more(24) == pytest.approx(3 * more(8))


def test_what_was_measured_is_told_from_what_was_not():
    times = StepTimes((Point(1, 1, 256, 1.0), Point(1, 8, 256, 2.0), Point(4, 1, 256, 1.5)))
    assert times.is_measured(8, 1)
    assert not times.is_measured(16, 1)
    assert not times.is_measured(8, 2)  # with four rows, only plain decoding was
    assert times.is_measured(1, 3)
    assert not times.is_measured(1, 5)
    assert [times.sizes(batch) for batch in (1, 2, 4, 9)] == [{1, 8}, {1}, {1}, {1}]


@pytest.mark.parametrize("bad", [(), (Point(0, 1, 256, 1.0),), (Point(1, 1, 256, 0.0),)])
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match="step times need points"):
        StepTimes(bad)
