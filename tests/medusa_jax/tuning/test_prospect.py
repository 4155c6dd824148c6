import dataclasses

import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance, Measured, assumed_acceptance, assumed_times
from medusa_jax.tuning.prospect import prospect
from medusa_jax.tuning.times import Point, StepTimes

HEADS = MedusaConfig(num_heads=2, hidden_size=8, vocab_size=100)


def of(heads=HEADS, measured=None, platform="cpu", dtype="float32", temperature=0.0, batch=1):
    options = {"dtype": dtype, "temperature": temperature, "batch": batch}
    return prospect(heads, measured or Measured(), platform=platform, **options)


def test_trees_are_those_of_the_rates_nearest_in_temperature():
    """By hand: a chain where the second head is good, else siblings."""
    deep = Rates(np.array([[[0.6, 0.1]], [[0.9, 0.05]]]))
    wide = Rates(np.array([[[0.4, 0.39]], [[0.1, 0.05]]]))
    measured = Measured(Acceptance({0.0: deep, 1.0: wide}))
    assert of(measured=measured).trees[3].paths() == [[0], [0, 0]]
    assert of(measured=measured, temperature=0.9).trees[3].paths() == [[0], [1]]
    assert of(measured=measured).belief.tokens[3] == pytest.approx(1 + 0.6 + 0.6 * 0.9)


def test_sizes_end_where_the_heads_do():
    assert list(of(None).trees) == [1]
    few = Measured(Acceptance({0.0: Rates(np.full((1, 1, 3), 0.3))}))
    assert list(of(measured=few).trees) == [1, 2, 3, 4]


def test_more_heads_were_measured_than_there_are():
    more = Measured(Acceptance({0.0: assumed_acceptance(5)}))
    assert max(tree.max_depth for tree in of(measured=more).trees.values()) == 2


def test_an_accelerator_begins_with_large_trees_that_shrink_with_the_batch():
    five = dataclasses.replace(HEADS, num_heads=5)
    on_gpu = {"platform": "gpu", "dtype": "bfloat16"}
    sizes = [of(five, batch=b, **on_gpu).choose(256).nodes for b in (1, 4, 16, 64)]
    assert 12 <= sizes[0] <= 32
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_drafting_by_levels_is_assumed_to_cost_something_until_it_is_measured():
    alone = dataclasses.replace(HEADS, conditioning="none")
    branch = dataclasses.replace(HEADS, num_layers=1, own_projection=False, conditioning="branch")
    on_gpu = {"platform": "gpu", "dtype": "bfloat16"}
    (plain, deep), (same, deeper) = (
        [of(heads, **on_gpu).seconds(256)[n] for n in (1, 16)] for heads in (alone, branch)
    )
    assert same == plain
    assert deeper == pytest.approx(deep + 2 * 0.02 * plain)
    own = StepTimes((Point(1, 1, 256, 1.0), Point(1, 16, 256, 1.25)))
    measured = Measured(times={"bfloat16": own})
    assert of(branch, measured, **on_gpu).seconds(256) == {1: 1.0, 16: 1.25}
    assert of(branch).seconds(256) == of(alone).seconds(256)  # in the times of CPUs already


def test_a_depth_of_drafts_by_levels_has_to_pay_for_itself():
    """A third depth gains 0.012 of 1.94 tokens, less than the 2 % of a plain step that it costs.

    Where four nodes take five plain steps the depth is cheaper, and pays.
    """
    rates = Rates(np.array([[[0.6, 0.03]], [[0.5, 0.02]], [[0.14, 0.01]]]))
    shallow, deep = [[0], [1], [0, 0]], [[0], [0, 0], [0, 0, 0]]
    alone = dataclasses.replace(HEADS, num_heads=3)
    branch = dataclasses.replace(alone, own_projection=False, conditioning="branch")

    def tree_of(heads, seconds):
        own = StepTimes((Point(1, 1, 256, 2.0), Point(1, 4, 256, 2.0 * seconds)))
        measured = Measured(Acceptance({0.0: rates}), {"float32": own})
        return of(heads, measured).trees[4].paths()

    assert tree_of(alone, 1.0) == deep
    assert tree_of(branch, 1.0) == shallow
    assert tree_of(branch, 5.0) == deep


def test_a_cpu_begins_with_small_ones():
    assert 2 <= of().choose(256).nodes <= 8
    assert 2 <= of(dtype="bfloat16").choose(256).nodes <= 8
    assert of(dtype="bfloat16").choose(256).source == "estimated"


def test_assumed_times_rise():
    for platform, dtype in [("cpu", "float32"), ("cpu", "bfloat16"), ("tpu", "bfloat16")]:
        times = assumed_times(platform, dtype)
        seconds = [times.seconds(n, 4, 256) for n in (1, 2, 8, 64, 128)]
        assert seconds == sorted(seconds)


def test_only_sizes_that_were_measured_are_chosen():
    """Three nodes would be the best by interpolation, and nobody knows what they take."""
    own = [Point(1, 1, 256, 1.0), Point(1, 2, 256, 1.2), Point(1, 4, 256, 1.25)]
    own += [Point(4, 1, 256, 1.1), Point(4, 2, 256, 1.3), Point(4, 8, 256, 9.0)]
    acceptance = Acceptance({0.0: Rates(np.array([[[0.5, 0.3, 0.0]], [[0.0, 0.0, 0.0]]]))})
    measured = Measured(acceptance, {"float32": StepTimes(tuple(own))})
    assert list(of(measured=measured).trees) == [1, 2, 4]
    assert list(of(measured=measured, batch=2).trees) == [1, 2]  # between one row and four
    assert list(of(measured=measured, batch=9).trees) == [1, 2, 8]
    assert of(measured=measured).choose(256).nodes == 4
    assert 3 in of(measured=Measured(acceptance)).trees


def test_what_lies_beyond_the_measured_is_doubted_more():
    times = StepTimes((Point(1, 1, 256, 1.0), Point(1, 8, 256, 2.0)))
    measured = Measured(Acceptance({0.0: assumed_acceptance(2)}), {"float32": times})
    near, beyond = (of(measured=measured, batch=batch).belief.doubt for batch in (1, 4))
    assert near[8] < beyond[8] < of().belief.doubt[8]
    assert of(measured=measured, dtype="bfloat16").belief.doubt == of(dtype="bfloat16").belief.doubt
