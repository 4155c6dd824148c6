"""How often judging reads the logits of all nodes, compiled for a TPU v5e that is not there."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from medusa_jax.decoding.drafting.draft import Draft
from medusa_jax.decoding.rules.filters import Filters
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.lossless import Lossless, LosslessNumbers
from medusa_jax.decoding.rules.typical import Typical, TypicalNumbers
from medusa_jax.decoding.state import Request
from medusa_jax.plan.build import build
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_tpu_compiler

pytestmark = needs_tpu_compiler

R, V, D = 64, 128256, 256
WEIGHTS = 2 * V * D


def logits(rows):
    """Bytes of 8 rows: 263 MB, more than a core's own memory."""
    return 4 * rows * R * V


def traffic(rule, numbers, B):
    """Bytes moved by an LM head and the rule."""
    topology = find_topology("v5e:1x1")
    here = SingleDeviceSharding(topology.devices[0])

    def array(shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    int_B, float_B = array((B,), jnp.int32), array((B,))
    parts = array((1, R), jnp.int32), array((1, R), jnp.int32), array((1, R, R), jnp.bool_)
    draft = Draft(array((B, R), jnp.int32), *parts, 5)
    eos, key = array((B, 8), jnp.int32), array((B, 2), jnp.uint32)
    request = Request(int_B, eos, key, numbers(int_B, float_B))

    def judge(hidden, weight, draft, request, position):
        logits = jnp.einsum("brd,vd->brv", hidden, weight, preferred_element_type=jnp.float32)
        return rule.judge(draft, logits, request, position)

    hidden, weight = array((B, R, D), jnp.bfloat16), array((V, D), jnp.bfloat16)
    arrays = (hidden, weight, draft, request, int_B)
    built = build(topology, lambda: jax.jit(judge).lower(*arrays).compile(), {})
    return costs_of(parse(built.text)).hbm_bytes


@pytest.mark.parametrize(
    ("rule", "numbers", "times"),
    [
        (Greedy(), lambda i, x: (), 0),
        # Written; read for the maximum, for the sum and for the entropy.
        (Typical(), lambda i, x: TypicalNumbers(x, x, x), 4),
        # Written; of those that are visited, one row per depth.
        (Lossless(), lambda i, x: LosslessNumbers(x, Filters(i, x, x)), 1),
    ],
)
def test_logits_are_moved_no_oftener_than_needed(rule, numbers, times):
    moved = traffic(rule, numbers, 8) - WEIGHTS
    assert (times - 0.1) * logits(8) < moved < (times + 0.2) * logits(8)


def test_many_rows_are_picked_one_by_one():
    """A gather would read all logits for every depth, more than twelve times in all."""
    moved = traffic(Lossless(), lambda i, x: LosslessNumbers(x, Filters(i, x, x)), 64) - WEIGHTS
    assert moved < 1.2 * logits(64)
