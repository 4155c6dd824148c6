"""What programs for TPUs of different ages get."""

import os

import jax
import pytest

from medusa_jax.tpu import leaves_results_on_chip, quiet_libtpu, saying_which


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("TPU v4", False), ("TPU v4 lite", False), ("TPU v5 lite", True), ("TPU v6 lite", True)],
)
def test_results_stay_on_the_chip_since_v5(kind, expected):
    with saying_which(kind):
        assert leaves_results_on_chip() is expected


def test_a_program_for_one_kind_is_not_taken_for_another():
    seen = []

    @jax.jit
    def f(x):
        seen.append(leaves_results_on_chip())
        return x

    for kind in ("TPU v4", "TPU v5", "TPU v4"):
        with saying_which(kind):
            f(1.0)
    assert seen == [False, True]


def test_a_machine_with_a_tpu_is_left_alone(monkeypatch):
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    quiet_libtpu()
    assert "TPU_WORKER_HOSTNAMES" not in os.environ
