"""Times and rates that follow from counts, by hand."""

import dataclasses

import pytest

from medusa_jax.plan.chips import Chip
from medusa_jax.plan.costs import Costs
from medusa_jax.plan.speed import decoding_speed, roofline_seconds, step_seconds, training_speed

CHIP = Chip(flops=100.0, hbm=10.0, wire=2.0, clock=5.0, float32=20.0)


@pytest.mark.parametrize(
    ("flops", "hbm", "wire", "seconds"),
    [(700, 10, 2, 7.0), (100, 80, 2, 8.0), (100, 10, 18, 9.0)],
)
def test_the_longest_of_three_counts(flops, hbm, wire, seconds):
    costs = Costs(flops, hbm, {"all-reduce": 1}, wire)
    assert roofline_seconds(costs, CHIP) == seconds
    assert step_seconds(costs, CHIP) == seconds
    assert step_seconds(dataclasses.replace(costs, cycles=100), CHIP) == 20.0
    assert step_seconds(dataclasses.replace(costs, cycles=1), CHIP) == seconds
    no_clock = dataclasses.replace(CHIP, clock=None)
    assert step_seconds(dataclasses.replace(costs, cycles=100), no_clock) == seconds


def test_exact_products_have_a_peak_of_their_own():
    """600 operations at 100 a second and 100 at 20."""
    costs = Costs(flops=700, hbm_bytes=10, exact_flops=100)
    assert roofline_seconds(costs, CHIP) == 11.0
    assert roofline_seconds(costs * 3 + costs, CHIP) == 44.0


@pytest.mark.parametrize(
    ("cycles", "overhead", "tokens_per_second"),
    [
        (None, 5 / 4, 6 / 5),  # 50 bytes at 10 a second, the plain step's 40
        (35, 7 / 4, 6 / 7),  # 35 cycles at 5 a second
        (10, 5 / 4, 6 / 5),  # fewer than what the bytes take
    ],
)
def test_decoding_by_hand(cycles, overhead, tokens_per_second):
    """A step of 3 rows with 2 tokens each; the plain one has cycles too, which do not count."""
    step, plain = Costs(flops=200, hbm_bytes=50, cycles=cycles), Costs(hbm_bytes=40, cycles=15)
    found = decoding_speed(step, plain, CHIP, tokens=3 * 2)
    assert found == {"overhead": overhead, "tokens_per_second": tokens_per_second}


def test_a_plain_step_that_waits_for_its_own_weights_is_no_shorter():
    """Its 10 cycles are 2 s, its bytes 4: the tree's 30 cycles are 1.5 times as long, not 3."""
    step, plain = Costs(hbm_bytes=40, cycles=30), Costs(hbm_bytes=40, cycles=10)
    assert decoding_speed(step, plain, CHIP, tokens=None) == {
        "overhead": 1.5,
        "tokens_per_second": None,
    }
    assert decoding_speed(step, None, CHIP, tokens=12)["overhead"] is None


@pytest.mark.parametrize(
    ("costs", "tokens_per_second", "mfu_bound"),
    [
        # 40 tokens of 15 operations are 600, of which the step does 800: 8 s of 6.
        (Costs(flops=800), 5.0, 0.75),
        # Bound by memory: 12 s, in which the device could do 1200.
        (Costs(flops=800, hbm_bytes=120), 40 / 12, 0.5),
        # By the wire: 15 s.
        (Costs(flops=800, hbm_bytes=120, wire_bytes=30.0), 40 / 15, 0.4),
        # Cycles say 20 s: an opinion, so that the bound is that of the wire.
        (Costs(flops=800, hbm_bytes=120, wire_bytes=30.0, cycles=100), 2.0, 0.4),
    ],
)
def test_training_by_hand(costs, tokens_per_second, mfu_bound):
    found = training_speed(costs, CHIP, tokens=40, flops=15)
    assert found["tokens_per_second_per_device"] == pytest.approx(tokens_per_second)
    assert found["mfu_bound"] == pytest.approx(mfu_bound)
