"""Intervals against closed forms, and how often they hold the truth."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from train.reporting.statistics import draw_prompts, estimate

Z = 1.959964
RNG = np.random.default_rng


def estimate_of(above, below=None, drawn_RN=None, scale="difference", seed=0):
    """Of one seed's or several seeds' prompts."""
    above_SN = np.atleast_2d(np.asarray(above, np.float64))
    below_SN = np.ones_like(above_SN) if below is None else np.atleast_2d(below).astype(float)
    drawn_RN = draw_prompts(above_SN.shape[1], 0) if drawn_RN is None else drawn_RN
    return estimate(above_SN, below_SN, drawn_RN, scale, RNG(seed))


def test_prompts_are_drawn_evenly():
    drawn_RN = draw_prompts(30, seed=0, resamples=20_000)
    assert (drawn_RN.sum(1) == 30).all()
    np.testing.assert_allclose(drawn_RN.mean(0), 1, atol=0.04)
    np.testing.assert_allclose(drawn_RN.var(0), 1 - 1 / 30, rtol=0.1)


def test_a_mean_has_the_normal_interval():
    x_N = RNG(1).normal(5.0, 2.0, 400)
    found = estimate_of(x_N)
    assert found.value == pytest.approx(x_N.mean())
    error = x_N.std() / 20
    np.testing.assert_allclose(
        found.interval, [x_N.mean() - Z * error, x_N.mean() + Z * error], atol=0.05 * error
    )


def test_a_quotient_of_sums_has_the_interval_of_the_delta_method():
    rng = RNG(2)
    steps_N = rng.integers(20, 80, 500)
    tokens_N = steps_N * rng.uniform(1.2, 2.8, 500)
    found = estimate_of(tokens_N, steps_N, scale="ratio")
    ratio = tokens_N.sum() / steps_N.sum()
    assert found.value == pytest.approx(ratio)
    error = np.std(tokens_N - ratio * steps_N) / steps_N.mean() / np.sqrt(500) / ratio
    np.testing.assert_allclose(
        np.log(found.interval), np.log(ratio) + np.array([-Z, Z]) * error, atol=0.06 * error
    )


def test_a_perplexity_is_the_exponential_of_a_mean_loss():
    loss_N, tokens_N = np.array([30.0, 10.0, 50.0]), np.array([20.0, 10.0, 20.0])
    found = estimate_of(loss_N, tokens_N, scale="exponential")
    assert found.value == pytest.approx(np.exp(90 / 50))
    other = estimate_of(loss_N + tokens_N, tokens_N, scale="exponential")
    comparison = other.versus(found)  # each token costs one nat more
    np.testing.assert_allclose([comparison.value, *comparison.interval], np.e)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = RNG(3)
    drawn_RN = draw_prompts(80, 0, resamples=1000)
    held = 0
    for _ in range(400):
        steps_N = rng.integers(20, 80, 80)
        tokens_N = steps_N * rng.gamma(8.0, 0.25, 80)  # skewed, 2 on average
        low, high = estimate_of(tokens_N, steps_N, drawn_RN, "ratio").interval
        held += low < 2 < high
    assert 0.91 < held / 400 < 0.98


def test_pairing_finds_a_difference_that_two_intervals_hide():
    """One per cent more on every prompt, where the prompts differ by half."""
    rng = RNG(4)
    steps_N = rng.uniform(20, 80, 60)
    tokens_N = steps_N * rng.uniform(1.0, 3.0, 60)
    steps_of_better_N = steps_N / 1.01 * rng.uniform(0.98, 1.02, 60)
    reference = estimate_of(tokens_N, steps_N, scale="ratio")
    better = estimate_of(tokens_N, steps_of_better_N, scale="ratio")
    assert better.interval[0] < reference.interval[1]
    comparison = better.versus(reference)
    assert comparison.direction == 1
    assert 1 < comparison.interval[0] < comparison.value < comparison.interval[1] < 1.02
    alone = estimate_of(tokens_N, steps_of_better_N, draw_prompts(60, 1), "ratio")
    assert alone.versus(reference).direction == 0
    assert reference.versus(better).direction == -1


def test_what_is_the_same_does_not_differ():
    rng = RNG(5)
    same = [estimate_of(x, scale="ratio") for x in [rng.uniform(1, 2, 30)] * 2]
    comparison = same[0].versus(same[1])
    assert (comparison.value, comparison.interval, comparison.direction) == (1.0, (1.0, 1.0), 0)


def test_three_seeds_have_the_interval_of_student():
    """Prompts that do not matter: what is left is the mean of three numbers."""
    values_S = np.array([2.00, 2.03, 2.10])
    found = estimate_of(np.repeat(values_S[:, None], 40, axis=1))
    assert found.value == pytest.approx(values_S.mean())
    half = stats.t.ppf(0.975, 2) * stats.sem(values_S)
    np.testing.assert_allclose(
        found.interval, [values_S.mean() - half, values_S.mean() + half], atol=0.08 * half
    )


@pytest.mark.parametrize("of_seeds", [0.0, 0.02, 0.2])
def test_comparisons_of_seeds_hold_the_truth(of_seeds):
    """Two runs of three seeds on the same prompts, whose seeds matter not at all, some, most."""
    rng = RNG(6)
    drawn_RN = draw_prompts(50, 0, resamples=1000)
    held = 0
    for trial in range(400):
        prompt_N = rng.normal(0.0, 0.3, 50)
        pair = []
        for run, truth in enumerate((1.0, 1.5)):
            own_S1 = truth + rng.normal(0.0, of_seeds, (3, 1))
            x_SN = own_S1 + prompt_N + rng.normal(0.0, 0.1, (3, 50))
            pair.append(estimate_of(x_SN, None, drawn_RN, seed=(trial, run)))
        low, high = pair[1].versus(pair[0]).interval
        held += low < 0.5 < high
    assert held / 400 > 0.92


def test_seeds_of_two_runs_are_drawn_apart():
    """Each has a spread of its own, and the difference has both."""
    values_S = np.array([1.0, 1.1, 1.3])
    x_SN = np.repeat(values_S[:, None], 20, axis=1)
    one, other = (estimate_of(x_SN, seed=seed) for seed in (0, 1))
    assert other.versus(one).value == 0
    low, high = other.versus(one).interval
    wide = one.interval[1] - one.interval[0]
    assert high - low > 1.2 * wide


def test_nothing_to_divide_by_is_zero():
    """Of answers that are all too short there are no 4-grams, and none is repeated."""
    found = estimate_of([0.0, 0.0], [0.0, 0.0])
    assert (found.value, found.interval) == (0.0, (0.0, 0.0))


def test_an_estimate_says_what_its_draws_say():
    found = estimate_of([1.0, 2.0])
    shifted = dataclasses.replace(found, draw_R=found.draw_R - 10)
    assert (found.direction, shifted.direction) == (1, -1)
