"""The prefill program of a small model, compiled for a TPU v5e that is not there."""

import dataclasses

import jax
import pytest

from infer.planning import prefill
from infer.planning.prefill import plan_prefill
from medusa_jax.mesh import AXES
from medusa_jax.plan.topology import find_topology
from medusa_jax.tree.presets import load_any_tree
from tests.infer.planning.test_decoding import PARAMETERS, WISH
from tests.infer.planning.wishes import CONFIG, MATRICES
from tests.medusa_jax.plan.compilers import needs_tpu_compiler

pytestmark = needs_tpu_compiler

PLAIN = dataclasses.replace(WISH, tree=load_any_tree("chain:0"), max_context=4096)
CACHE = 2 * 2 * 2 * CONFIG.num_kv_heads * CONFIG.head_dim * 4096  # bytes of one row's
# Products of scores and of values, of 16 heads in 2 layers: pairs of a token and one before it, or
# one of its own chunk of 512.
PAIRS = 512 * sum(512 * chunk + 512 for chunk in range(8))
FLOPS = 2 * 4096 * MATRICES + 4 * 2 * 16 * 128 * PAIRS


def test_operations_and_memory_by_hand():
    """Every token goes through every matrix, sees those before it, and waits beside the batch."""
    topology = find_topology("v5e:1x1")
    wish = dataclasses.replace(PLAIN, batch_size=4)
    found = plan_prefill(topology, topology.devices[0], wish)
    assert found.fits
    assert found.flops == pytest.approx(FLOPS, rel=0.05)
    assert found.step_ms_roofline >= 1e3 * FLOPS / 197e12 * 0.95
    assert found.argument_bytes == pytest.approx(2 * PARAMETERS + 5 * CACHE, rel=0.02)
    assert found.argument_bytes < found.total_bytes < 1.2 * found.argument_bytes


def test_what_fills_no_chunk_is_a_narrower_one():
    """8 tokens more than a chunk are run as 32."""
    topology = find_topology("v5e:1x1")
    one, more = (
        plan_prefill(topology, topology.devices[0], dataclasses.replace(PLAIN, max_context=n))
        for n in (512, 520)
    )
    assert more.flops == pytest.approx(one.flops * (512 + 32) / 512, rel=0.03)


def test_what_does_not_fit_is_an_answer():
    topology = find_topology("v5e:1x1")
    one_layer = dataclasses.replace(CONFIG, num_layers=1)
    wish = dataclasses.replace(PLAIN, config=one_layer, batch_size=1200, max_context=4096)
    found = plan_prefill(topology, topology.devices[0], wish)
    assert found.total_bytes > 1200 * CACHE / 2 > topology.hbm_bytes
    assert not found.fits
    assert "--batch_size" in found.change
    # The chunk itself fits, and the compiler says nothing of the batch beside it.
    assert found.takes_space[0] == f"cache: {1200 * CACHE / 2 / 1e9:.2f} GB"
    assert any(line.startswith("backbone: ") for line in found.takes_space)


def test_on_a_mesh_every_device_does_its_part():
    topology = find_topology("v5e:2x2")
    axes = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh((1, 1, 4), AXES, axes, devices=topology.devices)
    found = plan_prefill(topology, mesh, PLAIN)
    assert found.num_devices == 4
    assert found.flops == pytest.approx(FLOPS / 4, rel=0.05)
    assert found.argument_bytes == pytest.approx((2 * PARAMETERS + 2 * CACHE) / 4, rel=0.05)


def test_without_a_kernel_every_chunk_reads_all_slots(monkeypatch):
    monkeypatch.setattr(prefill, "reads_valid_slots", lambda *_: False)
    topology = find_topology("v5e:1x1")
    found = plan_prefill(topology, topology.devices[0], PLAIN)
    pairs = 4096 * (4096 + 512)
    flops = 2 * 4096 * MATRICES + 4 * 2 * 16 * 128 * pairs
    assert found.flops == pytest.approx(flops, rel=0.05)
    assert flops > 1.05 * FLOPS
