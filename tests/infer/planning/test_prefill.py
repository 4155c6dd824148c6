"""The prefill program of a small model, compiled for a TPU v5e that is not there."""

import dataclasses

import jax
import pytest

from infer.planning.decoding import plan_decoding
from infer.planning.prefill import plan_prefill
from medusa_jax.plan.topology import find_topology
from tests.infer.planning.test_decoding import CONFIG, MATRICES, WISH
from tests.medusa_jax.plan.tpu import needs_tpu_compiler

pytestmark = needs_tpu_compiler


@pytest.fixture(scope="module")
def topology():
    return find_topology("v5e:1x1")


def test_operations_and_memory_by_hand(topology):
    """Every token goes through every matrix, sees those before it, and waits beside the batch."""
    wish = dataclasses.replace(WISH, max_context=4096, batch_size=4)
    found = plan_prefill(topology, topology.devices[0], wish)
    assert found.fits
    # A product of T x 128 with 128 x T for scores and values of 16 heads in 2 layers: pairs of a
    # token and one before it, or of its own chunk.
    pairs = 512 * sum(512 * chunk + 512 for chunk in range(8))
    flops = 2 * 4096 * MATRICES + 4 * 2 * 16 * 128 * pairs
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert found.step_ms_roofline >= 1e3 * flops / 197e12 * 0.95
    decoding = plan_decoding(topology, topology.devices[0], wish)
    row = 2 * 2 * 2 * CONFIG.num_kv_heads * CONFIG.head_dim * 4096
    assert found.argument_bytes == pytest.approx(decoding.argument_bytes + row, rel=0.02)


def test_what_does_not_fit_is_an_answer(topology):
    wish = dataclasses.replace(WISH, max_context=4096, batch_size=600)
    found = plan_prefill(topology, topology.devices[0], wish)
    assert found.total_bytes > topology.hbm_bytes
    assert not found.fits
    assert "--batch_size" in found.change


def test_on_a_mesh(topology):
    del topology
    four = find_topology("v5e:2x2")
    axes = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh((1, 1, 4), ("data", "fsdp", "tensor"), axes, devices=four.devices)
    alone = plan_prefill(four, four.devices[0], WISH)
    found = plan_prefill(four, mesh, WISH)
    assert found.num_devices == 4
    assert found.flops == pytest.approx(alone.flops / 4, rel=0.1)
