"""Times that follow from counts, by hand."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medusa_jax.plan.build import Built, local_bytes
from medusa_jax.plan.chips import Chip
from medusa_jax.plan.costs import Costs
from medusa_jax.plan.estimate import common, roofline_seconds, step_seconds
from medusa_jax.plan.topology import Topology
from medusa_jax.sharding import make_mesh

CHIP = Chip(flops=100.0, hbm=10.0, wire=2.0, clock=5.0)
TOPOLOGY = Topology("toy:2", "tpu", (type("Device", (), {"device_kind": "Toy"})(),) * 2, CHIP, 1000)


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


@pytest.mark.parametrize(("total", "fits"), [(1000, True), (1001, False)])
def test_the_line_of_what_fits(total, fits):
    built = Built(1.0, "text", 10, 20, total)
    values = common(TOPOLOGY, 2, built, Costs(flops=200, cycles=7), "use less")
    assert values["fits"] is fits
    assert values["change"] == (None if fits else "use less")
    assert values["step_ms_roofline"] == 2000.0
    assert values["step_cycles_compiler"] == 7
    assert values["collective_bytes"]["all-gather"] == 0


def test_what_was_refused_has_no_costs():
    values = common(TOPOLOGY, 2, Built(1.0, None, 10, None, 2000, ("why",)), None, "use less")
    assert values["fits"] is False
    assert values["takes_space"] == ("why",)
    assert {values[name] for name in ("flops", "collective_bytes", "step_ms_roofline")} == {None}


@pytest.mark.parametrize(("dtype", "nbytes"), [("float32", 12), ("bfloat16", 6), ("uint4", 2)])
def test_what_a_device_holds_of_an_array(dtype, nbytes):
    """Of 8 x 3 numbers on eight devices: three, which take a byte and a half at four bits each."""
    split = NamedSharding(make_mesh(data=8), PartitionSpec("data"))
    assert local_bytes(jax.ShapeDtypeStruct((8, 3), dtype, sharding=split)) == nbytes
    assert local_bytes(jax.ShapeDtypeStruct((3,), dtype)) == nbytes
