"""Tests infer/tuning/keep.py: what one measurement keeps, another leaves."""

import numpy as np

from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance


def rates(value: float) -> Rates:
    return Rates(np.full((1, 1, 1), value))


def test_temperatures_that_another_run_has_measured_meanwhile_are_kept(kept):
    first, second = kept(), kept()
    first.set_acceptance(Acceptance({0.0: rates(0.5)}))
    second.set_acceptance(Acceptance({0.7: rates(0.25)}))
    known = kept().acceptance.by_temperature
    assert {t: own.rate_MPK.item() for t, own in known.items()} == {0.0: 0.5, 0.7: 0.25}
    first.set_acceptance(Acceptance({0.0: rates(0.75)}))  # its own counts, the later one
    known = kept().acceptance.by_temperature
    assert {t: own.rate_MPK.item() for t, own in known.items()} == {0.0: 0.75, 0.7: 0.25}
    kept(overwrite=True).set_acceptance(Acceptance({1.0: rates(0.1)}))
    assert list(kept().acceptance.by_temperature) == [1.0]
