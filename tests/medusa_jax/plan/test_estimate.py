"""What fits, and what takes the space where it does not, by hand."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medusa_jax.mesh import make_mesh
from medusa_jax.plan.build import Built, local_bytes
from medusa_jax.plan.chips import Chip
from medusa_jax.plan.costs import Costs
from medusa_jax.plan.estimate import common
from medusa_jax.plan.topology import Topology

CHIP = Chip(flops=100.0, hbm=10.0, wire=2.0, clock=5.0)
TOPOLOGY = Topology("toy:2", "tpu", (type("Device", (), {"device_kind": "Toy"})(),) * 2, CHIP, 1000)


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
    built = Built(1.0, None, 10, None, 2000, refusal=("why",))
    values = common(TOPOLOGY, 2, built, None, "use less")
    assert values["fits"] is False
    assert values["takes_space"] == ("why",)
    assert {values[name] for name in ("flops", "collective_bytes", "step_ms_roofline")} == {None}


SIZES = {"state": 1_000_000, "cache": 30_000_000_000, "backbone": 50_000_000_000}


def test_what_takes_the_space_where_the_compiler_refuses_nothing():
    """Of 100 GB: 80 of arguments, 15 of temporaries, 6 of results and the program."""
    topology = dataclasses.replace(TOPOLOGY, hbm_bytes=100_000_000_000)
    built = Built(1.0, "text", 80_001_000_000, 15_000_000_000, 101_001_000_000, SIZES)
    assert built.takes_space(topology) == (
        "backbone: 50.00 GB",
        "cache: 30.00 GB",
        "temporaries: 15.00 GB",
        "results and code: 6.00 GB",
    )
    roomy = dataclasses.replace(topology, hbm_bytes=200_000_000_000)
    assert built.takes_space(roomy) == ()


def test_what_takes_the_space_where_it_refuses():
    """Its own words, which have the temporaries, and then the arguments."""
    built = Built(1.0, None, 80_001_000_000, None, None, SIZES, ("no room", "HLO temp 15 GB"))
    assert built.takes_space(TOPOLOGY) == (
        "no room",
        "HLO temp 15 GB",
        "backbone: 50.00 GB",
        "cache: 30.00 GB",
    )


@pytest.mark.parametrize(("dtype", "nbytes"), [("float32", 12), ("bfloat16", 6), ("uint4", 2)])
def test_what_a_device_holds_of_an_array(dtype, nbytes):
    """Of 8 x 3 numbers on eight devices: three, which take a byte and a half at four bits each."""
    split = NamedSharding(make_mesh(data=8), PartitionSpec("data"))
    assert local_bytes(jax.ShapeDtypeStruct((8, 3), dtype, sharding=split)) == nbytes
    assert local_bytes(jax.ShapeDtypeStruct((3,), dtype)) == nbytes


def test_what_takes_the_space_comes_largest_first():
    sizes = {"cache": 10**9, "parameters": 7 * 10**9, "request": 100}
    built = Built(1.0, "text", 8 * 10**9, 3 * 10**9, 12 * 10**9, sizes)
    large, small = (dataclasses.replace(TOPOLOGY, hbm_bytes=n * 10**9) for n in (12, 11))
    assert built.takes_space(small) == (
        "parameters: 7.00 GB",
        "temporaries: 3.00 GB",
        "cache: 1.00 GB",
        "results and code: 1.00 GB",
    )
    assert built.takes_space(large) == ()
