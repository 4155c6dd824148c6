"""Small programs for GPUs that are not there: what fits, and costs known by hand."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medusa_jax.nn.packed_attention import Packed, packed_attention
from medusa_jax.nn.prefix_attention import prefix_attention
from medusa_jax.plan.costs import costs_of, step_costs
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_gpu_compiler
from tests.medusa_jax.plan.small_programs import (
    built,
    on_one,
    product_of_rows,
    products_of_a_batch,
    successor,
    tensor_parallel_product,
)

pytestmark = needs_gpu_compiler


@pytest.mark.parametrize(("gib", "fits"), [(39, True), (40, False)])
def test_fits_on_both_sides_of_the_line(gib, fits):
    """Of 79.1 GiB: an array and its successor take twice its size."""
    topology = find_topology("h100:1")
    found = successor(topology, gib)
    assert found.fits(topology) is fits
    assert found.argument_bytes == gib << 30
    assert found.total_bytes == pytest.approx(2 * gib << 30, rel=0.01)
    # The compiler refuses nothing; 40 GiB are 42.95 GB.
    takes_space = () if fits else ("arrays: 42.95 GB", "results and code: 42.95 GB")
    assert found.takes_space(topology) == takes_space


@pytest.mark.parametrize("rows", [1, 8, 512])
def test_a_product_by_hand(rows):
    """Of 8 rows the compiler sums four parts of the contracted axis apart, in float32."""
    found = product_of_rows(find_topology("h100:1"), rows)
    costs = costs_of(parse(found.text))
    assert costs.flops == 2 * rows * 4096 * 16384
    by_hand = 2 * (rows * 4096 + 16384 * 4096 + rows * 16384)
    parts = int(re.findall(r"f32\[(\d+),8,16384\]", found.text)[0]) if rows == 8 else 0
    by_hand += 2 * parts * 4 * rows * 16384  # written and read
    assert costs.hbm_bytes == pytest.approx(by_hand, rel=0.01)
    assert costs.cycles is None
    assert costs.exact_flops == 0


@pytest.mark.parametrize("rows", [8, 512])
@pytest.mark.parametrize("name", ["h100:1", "t4:1"])
def test_products_in_float32_are_exact(name, rows):
    """The compiler's own, in parts if the rows are few, and those of its libraries."""
    costs = costs_of(parse(product_of_rows(find_topology(name), rows, jnp.float32).text))
    assert costs.exact_flops == costs.flops == 2 * rows * 4096 * 16384


def test_products_of_a_batch_by_hand():
    costs = costs_of(parse(products_of_a_batch(find_topology("h100:1")).text))
    assert costs.flops == 2 * 32 * 256 * 512 * 128
    by_hand = 2 * 32 * (256 * 128 + 512 * 128 + 256 * 512)
    assert costs.hbm_bytes == pytest.approx(by_hand, rel=0.01)


def test_collectives_of_a_tensor_parallel_product():
    found = tensor_parallel_product(find_topology("h100:4"))
    costs = costs_of(parse(found.text))
    assert {kind: size for kind, size in costs.collectives.items() if size} == {
        "all-reduce": 3 * 64 * 2048 * 4
    }
    assert costs.wire_bytes == 3 * 2 * (64 * 2048 * 4) * 3 / 4
    assert costs.flops == 3 * 2 * 2 * 64 * 2048 * 8192 / 4
    # Each device's part of the weights, read in every trip; and both products' parts, see above.
    parts = 8
    assert f"f32[{parts},64,2048]" in found.text
    rows = 4 * 64 * 2048
    trip = 2 * 2 * 2048 * 8192 / 4 + 2 * 2 * parts * rows
    # Converted and multiplied (2), summed and multiplied (1), summed (1), over devices (2).
    trip += 6 * rows
    assert costs.hbm_bytes == pytest.approx(3 * trip + 2 * rows, rel=1e-5)  # and copied before


def test_gathers_and_scatters_of_a_loop():
    """Parameters cut over devices are gathered whole, and gradients summed to their parts."""
    topology = find_topology("h100:8")
    mesh = Mesh(topology.devices, ("d",), axis_types=(AxisType.Auto,))

    def work(w):
        def trip(w, _):
            whole = jax.lax.all_gather(w, "d", tiled=True)
            return jax.lax.psum_scatter(jnp.sin(whole), "d", tiled=True), None

        return jax.lax.scan(trip, w, length=5)[0]

    spec = PartitionSpec("d")
    mapped = jax.shard_map(work, mesh=mesh, in_specs=spec, out_specs=spec)
    w = jax.ShapeDtypeStruct((8 << 20,), jnp.float32, sharding=NamedSharding(mesh, spec))
    costs = costs_of(parse(built(topology, mapped, [w]).text))
    whole = 4 * (8 << 20)
    assert {kind: size for kind, size in costs.collectives.items() if size} == {
        "all-gather": 5 * whole,
        "reduce-scatter": 5 * whole / 8,
    }
    assert costs.wire_bytes == 5 * 2 * whole * 7 / 8


def test_a_step_updates_its_cache_in_place():
    """A loop of unknown trips that writes 8 of a million rows: it moves those alone."""
    topology = find_topology("h100:1")

    def work(cache, row, last):
        def trip(carry):
            cache, at = carry
            return jax.lax.dynamic_update_slice_in_dim(cache, row, at, 0), at + 8

        return jax.lax.while_loop(lambda carry: carry[1] < last, trip, (cache, jnp.int32(0)))

    cache, row = on_one(topology, (1 << 20, 128), (8, 128))
    (last,) = on_one(topology, (), dtype=jnp.int32)
    found = built(topology, work, [cache, row, last], donate_argnums=0)
    costs = step_costs(parse(found.text))
    assert 2 * row.size <= costs.hbm_bytes < 1e5
    assert found.temp_bytes < 1e6


def decode_attention(q, k, v, mask, position, prefix_k, prefix_v, length):
    angles = (jnp.ones((*q.shape[:2], q.shape[3] // 2), jnp.float32),) * 2
    prefix = prefix_k, prefix_v
    return prefix_attention(q, k, v, angles, mask, position, prefix, length, window=700)[0]


@pytest.mark.parametrize(
    ("name", "has_kernel"), [("h100:1", True), ("a100:1", True), ("t4:1", False)]
)
@pytest.mark.parametrize(("T", "N", "K", "H"), [(64, 8, 2, 128), (1, 9, 3, 64)])
def test_attention_of_decoding(name, has_kernel, T, N, K, H):
    """One kernel where there is Triton, which a T4 has not; scores of 1024 slots nowhere."""
    topology = find_topology(name)
    half = on_one(
        topology, (2, T, N, H), (2, T, K, H), (2, T, K, H), (2, K, H, 1024), (2, K, 1024, H),
        dtype=jnp.float16,
    )  # fmt: skip
    (mask,) = on_one(topology, (1, T, T), dtype=jnp.bool_)
    position, length = on_one(topology, (2, T), (2,), dtype=jnp.int32)
    arguments = [*half[:3], mask, position, *half[3:], length]
    found = built(topology, decode_attention, arguments)
    assert ("xla.gpu.triton" in found.text) is has_kernel
    if has_kernel and T > 1:
        scores = 2 * N * T * 1024
        assert found.temp_bytes < 4 * scores
        by_hand = 2 * 2 * H * (scores + 2 * N * T * T)
        assert costs_of(parse(found.text)).flops == by_hand


@pytest.mark.parametrize(("name", "has_kernel"), [("h100:1", True), ("t4:1", False)])
def test_attention_of_training(name, has_kernel):
    """Forwards and backwards, of packed documents."""
    topology = find_topology(name)
    q, k, v = on_one(topology, (2, 1024, 8, 128), (2, 1024, 2, 128), (2, 1024, 2, 128))
    segment, position = on_one(topology, (2, 1024), (2, 1024), dtype=jnp.int32)

    def loss(q, k, v, segment, position):
        return packed_attention(q, k, v, Packed(segment), position).astype(jnp.float32).sum()

    found = built(topology, jax.grad(loss, (0, 1, 2)), [q, k, v, segment, position])
    assert ("xla.gpu.triton" in found.text) is has_kernel
    if has_kernel:
        scores = 2 * 8 * 1024 * 1024
        assert found.temp_bytes < 4 * scores
        # Two products forwards, seven backwards, of half of the scores and the diagonal's blocks.
        by_hand = (2 + 7) * 2 * 128 * scores * (1 + 64 / 1024) / 2
        assert costs_of(parse(found.text)).flops == by_hand
