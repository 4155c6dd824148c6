"""Tests infer/tuning/keep.py: what one measurement keeps, another leaves."""

import jax
import numpy as np
import pytest

from infer.tuning.keep import Kept
from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Makes one, of the same model with its heads."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("model", "heads"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")

    def make(overwrite=False):
        return Kept(tmp_path / "model", tmp_path / "heads", jax.devices()[0], overwrite=overwrite)

    return make


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
