"""What people see of a plan."""

import pytest

from medusa_jax.plan.estimate import TrainPlan
from medusa_jax.plan.table import show


@pytest.mark.parametrize("devices", [1, 4])
def test_costs_are_said_to_be_those_of_each_device(capsys, monkeypatch, devices):
    monkeypatch.setenv("COLUMNS", "120")
    plan = TrainPlan(
        topology=f"v5e:1x{devices}", device_kind="TPU v5 lite", num_devices=devices, fits=True,
        hbm_bytes=16_900_000_000, argument_bytes=5_000_000_000, temp_bytes=None, total_bytes=None,
        compile_seconds=12.0, flops=3_000_000_000_000, hbm_traffic_bytes=None,
        collective_bytes={"all-gather": 0, "all-reduce": 2_000_000_000}, step_cycles_compiler=None,
        step_ms_roofline=1.5, tokens_per_second_per_device=7190.0, mfu_bound=0.25,
    )  # fmt: skip
    show(plan, "a recipe")
    out = " ".join(capsys.readouterr().out.split())
    assert ("what follows is for each" in out) is (devices > 1)
    for row in ("arguments │ 5.000 GB", "tokens per second and device (estimate) │ 7,190"):
        assert row in out
    assert "all-reduce, results │ 2.000 GB" in out
    assert "all-gather" not in out
