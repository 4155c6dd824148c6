"""The policy on simulated machines: how much longer it takes than the best tree would have."""

import math

import numpy as np
import pytest

from medusa_jax.tuning.policy import Belief, Policy, _expected_saving
from medusa_jax.tuning.prospect import _MEASURED_DOUBT

SIZES = (1, 2, 4, 8, 16, 32, 64)
CALL = 25  # steps


class Machine:
    """True step times and acceptance, and predictions that are off by a smooth random factor.

    Args:
      seed: of everything.
      error: of predicted times, and of predicted acceptance, as standard deviations.
    """

    def __init__(self, seed: int, error: float):
        self.rng = rng = np.random.default_rng(seed)
        n = np.array(SIZES, float)
        second_row = rng.uniform(0.0, 0.8) if rng.random() < 0.5 else 0.0
        rising = np.maximum(n / 2 ** rng.uniform(0, 7), 1) ** rng.uniform(0.3, 1.2)
        seconds = (rising + second_row * (n > 1)) * 10 ** rng.uniform(-3, 0)
        self.seconds = dict(zip(SIZES, seconds, strict=True))
        shape = rng.uniform(0.05, 0.25)
        easier = math.exp(rng.normal(0, error))
        self.tokens = {k: 5 - 4 * k ** (-shape * easier) for k in SIZES}
        self.expected = {k: 5 - 4 * k**-shape for k in SIZES}
        off = np.exp(np.cumsum(rng.normal(0, error / 2, len(n))) + rng.normal(0, error / 4, len(n)))
        self.predicted = dict(zip(SIZES, np.maximum.accumulate(seconds * off), strict=True))
        # How one process differs from another, whatever the predictions.
        luck = np.exp(rng.normal(0, 0.045, len(n)))
        self.seconds = dict(zip(SIZES, seconds * luck, strict=True))

    def call(self, nodes: int, steps: int) -> tuple[float, int]:
        """Seconds and tokens of a call, as noisy as on a machine with other work."""
        disturbed = self.rng.uniform(1.5, 3) if self.rng.random() < 0.01 else 1.0
        noise = math.exp(self.rng.normal(0, 0.05)) * disturbed
        accepted = self.rng.binomial(4, (self.tokens[nodes] - 1) / 4, size=steps).sum()
        return steps * self.seconds[nodes] * noise, steps + int(accepted)

    def best_seconds(self, tokens: int) -> float:
        """What the best tree takes, with its share of disturbed calls."""
        return tokens * min(self.seconds[n] / self.tokens[n] for n in SIZES) * (1 + 0.01 * 1.25)


def regret(machine: Machine, belief: Belief, total: int) -> float:
    """Share of time above the best size's; compiling costs 50 plain steps and is not counted."""
    policy, ready, current, left, spent = Policy(belief), set(), None, total, 0.0
    while left > 0:
        decision = policy.decide(
            machine.predicted,
            remaining=left,
            current=current,
            ready=ready,
            compile_seconds=50 * machine.seconds[1],
        )
        steps = decision.steps or CALL
        seconds, tokens = machine.call(decision.nodes, steps)
        if current not in (None, decision.nodes):  # the draft is lost
            tokens -= round(machine.tokens[decision.nodes] - 1)
        current = decision.nodes
        ready.add(current)
        policy.observe(current, seconds, steps, steps, tokens, machine.predicted[current])
        left, spent = left - tokens, spent + seconds
    return spent / machine.best_seconds(total) - 1


def belief(machine: Machine, doubt: float, trust: float) -> Belief:
    return Belief(machine.expected, trust, dict.fromkeys(SIZES, doubt), "x")


@pytest.mark.parametrize(
    ("mean", "sigma"), [(0.0, 0.1), (-0.2, 0.1), (0.3, 0.2), (-0.5, 0.6), (0.1, 1.0)]
)
def test_the_expected_saving_is_the_integral(mean, sigma):
    x = np.linspace(mean - 12 * sigma, mean + 12 * sigma, 2_000_001)
    density = np.exp(-(((x - mean) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    integral = np.sum(np.maximum(1 - np.exp(-x), 0) * density) * (x[1] - x[0])
    assert _expected_saving(mean, sigma) == pytest.approx(integral, rel=1e-6)
    assert _expected_saving(mean, 0.0) == max(1 - math.exp(-mean), 0.0)


def test_gains_that_are_noise_change_nothing():
    policy = Policy(Belief({1: 1.0, 8: 2.0}, 300, {1: 0.02, 8: 0.02}, "x"))
    for seconds, expected in ((1.98, 1), (1.94, 8)):
        decision = policy.decide({1: 1.0, 8: seconds}, remaining=1e4, current=1, ready={1, 8})
        assert decision.nodes == expected


def test_with_measurements_little_is_lost():
    machines = [Machine(seed, 0.02) for seed in range(60)]
    regrets = [regret(m, belief(m, _MEASURED_DOUBT, 300), 20_000) for m in machines]
    assert np.mean(regrets) < 0.01
    assert np.quantile(regrets, 0.9) < 0.025


def test_without_measurements_long_runs_find_the_best_tree():
    machines = [Machine(seed, 0.35) for seed in range(30)]
    regrets = [regret(m, belief(m, 0.5, 30), 40_000) for m in machines]
    first = [m.best_seconds(1) for m in machines]
    guess = [max(SIZES, key=lambda n, m=m: m.expected[n] / m.predicted[n]) for m in machines]
    guesses = [
        m.seconds[n] / m.tokens[n] / b - 1 for m, n, b in zip(machines, guess, first, strict=True)
    ]
    assert np.mean(guesses) > 0.1  # predictions alone are not good enough
    assert np.mean(regrets) < 0.03
    assert np.quantile(regrets, 0.9) < 0.05


def test_a_size_that_disappoints_is_left():
    tokens = {1: 1.0, 8: 2.0}
    policy = Policy(Belief(tokens, 30, {1: 0.3, 8: 0.3}, "x"))
    predicted = {1: 1.0, 8: 1.2}
    assert policy.decide(predicted, remaining=1e4).nodes == 8
    for _ in range(10):  # in truth nothing is ever accepted
        policy.observe(8, 30.0, 25, 25, 25, predicted[8])
    assert policy.decide(predicted, remaining=1e4, current=8, ready={8, 1}).nodes == 1


def test_little_work_is_not_worth_a_trial_or_a_program():
    policy = Policy(Belief({1: 1.0, 8: 2.0}, 30, {1: 0.5, 8: 0.5}, "x"))
    predicted = {1: 1.0, 8: 2.2}
    policy.observe(1, 25.0, 25, 25, 25, 1.0)
    options = {"current": 1, "ready": {1}, "compile_seconds": 100.0}
    assert policy.decide(predicted, remaining=100, **options).nodes == 1
    trial = policy.decide(predicted, remaining=1e6, **options)
    assert trial.nodes == 8
    assert trial.steps is not None


def test_a_busy_machine_is_not_held_against_the_tree_in_use():
    """Everything takes twice as long from now on: no reason to leave."""
    policy = Policy(Belief({1: 1.0, 8: 2.0}, 300, {1: 0.05, 8: 0.05}, "x"))
    predicted = {1: 1.0, 8: 1.5}
    for factor in [1.0] * 20 + [2.0] * 20:
        policy.observe(8, 25 * 1.5 * factor, 25, 25, 50, predicted[8])
        assert policy.decide(predicted, remaining=1e3, current=8, ready={1, 8}).nodes == 8


@pytest.mark.parametrize("observed", [1e-6, 1e6])
def test_predictions_need_no_unit(observed):
    policy = Policy(Belief({1: 1.0, 8: 2.0}, 300, {1: 0.05, 8: 0.05}, "x"))
    policy.observe(8, 25 * 1.5 * observed, 25, 25, 50, 1.5)
    seconds = {n: o.seconds / observed for n, o in policy.outlooks({1: 1.0, 8: 1.5}).items()}
    assert seconds == pytest.approx({1: 1.0, 8: 1.5}, rel=0.1)


@pytest.mark.parametrize(("truth", "best"), [(1.36, 2), (1.6, 1)])
def test_a_size_that_was_unlucky_when_measured_is_found_in_long_runs(truth, best):
    """Two nodes cost 1.53 plain steps in one process, and less or more in the next."""
    policy = Policy(Belief({1: 1.0, 2: 1.45}, 300, {1: 0.02, 2: 0.02}, "x"))
    predicted, seconds, tokens = {1: 1.0, 2: 1.53}, {1: 1.0, 2: truth}, {1: 10, 2: 14.5}
    current, used = 1, []
    for _ in range(60):
        own = 10 * seconds[current], 10, 160, round(16 * tokens[current])
        policy.observe(current, *own, predicted[current])
        current = policy.decide(predicted, remaining=4000, current=current, ready={1, 2}).nodes
        used.append(current)
    assert used[-20:].count(best) >= 18
