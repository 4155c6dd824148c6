"""Small programs for a TPU v5e that is not there: what fits, and costs known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medusa_jax.mesh import make_mesh
from medusa_jax.nn.product import product
from medusa_jax.nn.vocabulary import best_tokens
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_tpu_compiler
from tests.medusa_jax.plan.small_programs import (
    attention_with_gradients,
    built,
    product_of_rows,
    products_of_a_batch,
    successor,
    tensor_parallel_product,
)

pytestmark = needs_tpu_compiler


@pytest.mark.parametrize(("gib", "fits"), [(7, True), (9, False), (17, False)])
def test_fits_on_both_sides_of_the_line(gib, fits):
    """Of 15.75 GiB: an array and its successor take twice its size."""
    topology = find_topology("v5e:1x1")
    found = successor(topology, gib)
    assert found.fits(topology) is fits
    assert found.argument_bytes == gib << 30
    takes_space = found.takes_space(topology)
    if fits:
        assert takes_space == ()
        assert found.total_bytes == pytest.approx(2 * gib << 30, rel=0.01)
        assert found.temp_bytes < 1 << 20
    else:
        assert found.text is None
        assert "RESOURCE_EXHAUSTED" in takes_space[0]
        assert takes_space[-1] == f"arrays: {(gib << 30) / 1e9:.2f} GB"


def test_a_result_in_the_place_of_an_argument_counts_once():
    topology = find_topology("v5e:1x1")
    found = successor(topology, 9, donate_argnums=0)
    assert found.fits(topology)
    assert found.total_bytes == pytest.approx(9 << 30, rel=0.01)


def test_a_product_by_hand():
    costs = costs_of(parse(product_of_rows(find_topology("v5e:1x1"), 512).text))
    assert costs.flops == 2 * 512 * 4096 * 16384
    assert costs.hbm_bytes == pytest.approx(2 * (512 * 4096 + 16384 * 4096 + 512 * 16384), rel=0.1)
    assert costs.cycles > 0
    assert costs.exact_flops == 0


def test_products_in_float32_are_exact():
    costs = costs_of(parse(product_of_rows(find_topology("v5e:1x1"), 512, jnp.float32).text))
    assert costs.exact_flops == costs.flops == 2 * 512 * 4096 * 16384


def test_products_of_a_batch_by_hand():
    """The compiler writes them as one convolution with a window over the batch."""
    found = products_of_a_batch(find_topology("v5e:1x1"))
    assert costs_of(parse(found.text)).flops == 2 * 32 * 256 * 512 * 128


def test_attention_by_hand():
    """Of 2 x 2 blocks of 512 tokens 3 are run, in 2 products forward and 3 + 4 backward."""
    found = attention_with_gradients(find_topology("v5e:1x1"))
    assert costs_of(parse(found.text)).flops == 9 * 3 * 2 * 2 * 4 * 512 * 512 * 128


def test_collectives_of_a_tensor_parallel_product():
    found = tensor_parallel_product(find_topology("v5e:2x2"))
    costs = costs_of(parse(found.text))
    assert costs.collectives == {"all-reduce": 3 * 64 * 2048 * 4}
    assert costs.wire_bytes == 3 * 2 * (64 * 2048 * 4) * 3 / 4
    assert costs.flops == 3 * 2 * 2 * 64 * 2048 * 8192 / 4
    assert found.argument_bytes == pytest.approx(4 * 64 * 2048 + 2 * 2 * 2048 * 8192 / 4, rel=0.01)


def test_drafts_from_a_vocabulary_on_four_chips_leave_the_lm_head_where_it_is():
    """128256 tokens are no multiple of 4 x 128, which would have half of the matrix gathered."""
    topology = find_topology("v5e:2x2")
    mesh = make_mesh(tensor=4, data=1, devices=topology.devices)
    split, whole = (NamedSharding(mesh, PartitionSpec(*x)) for x in (("tensor",), ()))
    hidden = jax.ShapeDtypeStruct((1, 4, 256), jnp.bfloat16, sharding=whole)
    lm_head = jax.ShapeDtypeStruct((128256, 256), jnp.bfloat16, sharding=split)

    def draft(hidden, lm_head):
        return best_tokens(product("BMD,VD->BMV", hidden, lm_head, jnp.bfloat16), 10)

    found = built(topology, draft, [hidden, lm_head])
    gathered = costs_of(parse(found.text)).collectives
    assert sum(gathered.values()) < 4 * 128256 * 4  # the logits
