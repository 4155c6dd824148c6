"""Costs of programs whose work is known by hand: written ones, and compiled ones of 8 devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from medusa_jax.plan.costs import Costs, costs_of, step_costs
from medusa_jax.plan.parse import parse

HEADER = "HloModule collectives, num_partitions=8\n"

NESTED = """HloModule nested, num_partitions=8
%fused (p: f32[16]) -> f32[128] {
  %p = f32[16] parameter(0)
  ROOT %inside = f32[128] all-gather(%p), replica_groups=[1,8]<=[8]
}
%async (q: f32[16]) -> f32[128] {
  %q = f32[16] parameter(0)
  ROOT %later = f32[128] all-gather(%q), replica_groups=[1,8]<=[8]
}
%cheap (r: f32[16]) -> f32[16] {
  %r = f32[16] parameter(0)
  ROOT %r1 = f32[16] negate(%r), backend_config={"estimated_cycles":"5"}
}
%dear (s: f32[16]) -> f32[16] {
  %s = f32[16] parameter(0)
  %s1 = f32[16] negate(%s), backend_config={"estimated_cycles":"5"}
  ROOT %s2 = f32[16] negate(%s1), backend_config={"estimated_cycles":"5"}
}
%body (c: (s32[], f32[16])) -> (s32[], f32[16]) {
  %c = (s32[], f32[16]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[16] get-tuple-element(%c), index=1
  %g = f32[128] fusion(%x), kind=kCustom, calls=%fused, backend_config={"estimated_cycles":"100"}
  %begun = ((f32[16]), f32[128], u32[]) async-start(%x), calls=%async
  %ended = f32[128] async-done(%begun), calls=%async
  ROOT %next = (s32[], f32[16]) tuple(%i, %x)
}
%goes_on (c.1: (s32[], f32[16])) -> pred[] {
  %c.1 = (s32[], f32[16]) parameter(0)
  ROOT %ask = pred[] custom-call(%c.1), custom_call_target="Ask"
}
ENTRY %main (z: f32[16], k: s32[]) -> (s32[], f32[16]) {
  %z = f32[16] parameter(0)
  %k = s32[] parameter(1)
  %choice = f32[16] conditional(%k, %z, %z), branch_computations={%cheap, %dear}
  %first = (s32[], f32[16]) tuple(%k, %choice)
  %three = (s32[], f32[16]) while(%first), condition=%goes_on, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %open = (s32[], f32[16]) while(%three), condition=%goes_on, body=%body
}
"""  # noqa: E501


def test_loops_branches_and_calls():
    found = costs_of(parse(NESTED))
    # Two gathers of 512 bytes in each of 3 + 1 trips.
    assert found.collectives == {"all-gather": 4 * 2 * 512}
    # The dearer branch, and the fusion in each trip.
    assert found.cycles == 10 + 4 * 100


def test_a_step_is_one_trip_of_the_open_loop():
    found = step_costs(parse(NESTED))
    assert found.collectives == {"all-gather": 2 * 512}
    assert found.cycles == 100


# What a program can call, and in which of two open loops it spends its time: that of more bytes.
CALLS = """HloModule calls
%called (p: f32[16]) -> f32[16] {
  %p = f32[16] parameter(0)
  ROOT %p1 = f32[16] negate(%p), backend_config={"estimated_cycles":"7"}
}
%dear (q: f32[16]) -> f32[16] {
  %q = f32[16] parameter(0)
  %q1 = f32[16] negate(%q), backend_config={"estimated_cycles":"11"}
  ROOT %q2 = f32[16] negate(%q1), backend_config={"estimated_cycles":"11"}
}
%fused (r: f32[16]) -> f32[16] {
  %r = f32[16] parameter(0)
  %r1 = f32[16] negate(%r), backend_config={"estimated_cycles":"1000"}
  ROOT %r2 = f32[16] negate(%r1), backend_config={"estimated_cycles":"1000"}
}
%asks (c: (s32[], f32[16])) -> pred[] {
  %c = (s32[], f32[16]) parameter(0)
  %x = f32[16] get-tuple-element(%c), index=1
  %y = f32[16] negate(%x), backend_config={"estimated_cycles":"3"}
  ROOT %ask = pred[] custom-call(%y), custom_call_target="Ask"
}
%multiplies (d: (s32[], f32[16])) -> (s32[], f32[16]) {
  %d = (s32[], f32[16]) parameter(0)
  %i = s32[] get-tuple-element(%d), index=0
  %v = f32[16] get-tuple-element(%d), index=1
  %w = f32[] dot(%v, %v), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %next = (s32[], f32[16]) tuple(%i, %v)
}
%moves (e: (s32[], f32[16])) -> (s32[], f32[16]) {
  %e = (s32[], f32[16]) parameter(0)
  %j = s32[] get-tuple-element(%e), index=0
  %z = f32[16] get-tuple-element(%e), index=1
  %a = f32[16] copy(%z)
  %b = f32[16] copy(%a)
  ROOT %then = (s32[], f32[16]) tuple(%j, %b)
}
ENTRY %main (z: f32[16], k: pred[], n: s32[]) -> (s32[], f32[16]) {
  %z.1 = f32[16] parameter(0)
  %k = pred[] parameter(1)
  %n = s32[] parameter(2)
  %one = f32[16] call(%z.1), to_apply=%called
  %two = f32[16] conditional(%k, %one, %one), true_computation=%called, false_computation=%dear
  %three = f32[16] fusion(%two), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"100"}
  %first = (s32[], f32[16]) tuple(%n, %three)
  %open = (s32[], f32[16]) while(%first), condition=%asks, body=%multiplies
  ROOT %last = (s32[], f32[16]) while(%open), condition=%asks, body=%moves
}
"""


def test_calls_conditions_and_the_edges_of_fusions():
    found = costs_of(parse(CALLS))
    # The call, the dearer branch, the fusion itself, and the condition of two loops.
    assert found.cycles == 7 + 22 + 100 + 2 * 3
    # Vectors of 64 bytes, read and written: in the call, twice in the branch, once in the fusion;
    # in each condition (a vector and a byte for the answer), in the product, and two copies.
    assert found.hbm_bytes == 128 * (1 + 2 + 1) + 2 * (128 + 64 + 1) + (128 + 4) + 2 * 128
    assert found.flops == 2 * 16


def test_the_step_is_in_the_loop_that_moves_most():
    assert step_costs(parse(CALLS)).hbm_bytes == 2 * 128


def test_without_an_open_loop_there_is_no_step():
    with pytest.raises(ValueError, match="no loop"):
        step_costs(parse(HEADER + "ENTRY %m () -> f32[] {\n  ROOT %c = f32[] constant(0)\n}\n"))


# TPUs write products as convolutions: 3 products of [4, 8] and [8, 5], as one window with gaps.
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f32[4,5] dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 4 * 5 * 8),
        ("f32[4,5] convolution(%a, %b), dim_labels=bf_io->bf", 2 * 4 * 5 * 8),
        (
            "f32[3,4,5] convolution(%c, %d), window={size=3 stride=2 pad=2_2 lhs_dilate=3 "
            "rhs_reversal=1}, dim_labels=0bf_0io->0bf",
            None,
        ),
        (
            'f32[4,5] custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config='
            '{"gemm":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
            2 * 4 * 5 * 8,
        ),
        (
            'f32[4,5] custom-call(%a, %b), custom_call_target="tpu_custom_call", backend_config='
            '{"cost_estimate":{"flops":"77","bytes_accessed":"9"}}',
            77,
        ),
        ("f32[4,8] add(%a, %a)", 0),
    ],
)
def test_operations(line, expected):
    entry = f"""ENTRY %main (a: f32[4,8], b: f32[8,5], c: f32[3,4,8], d: f32[3,8,5]) -> f32[] {{
  %a = f32[4,8] parameter(0)
  %b = f32[8,5] parameter(1)
  %c = f32[3,4,8] parameter(2)
  %d = f32[3,8,5] parameter(3)
  ROOT %it = {line}
}}
"""
    found = costs_of(parse(HEADER + entry)).flops
    if expected is None:
        expected = 2 * 4 * 5 * 8 * _pairs_by_definition(3, 3, 3, stride=2, pad=2, gap=3)
    assert found == expected


def _pairs_by_definition(left, right, out, *, stride, pad, gap):
    """The window laid over the left operand with its gaps and padding written out."""
    row = [0] * pad
    for place in range(left):
        row += [1] + [0] * (gap - 1 if place < left - 1 else 0)
    row += [0] * pad
    return sum(sum(row[start * stride : start * stride + right][:right]) for start in range(out))


def mesh_of_8():
    return jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))


def text_of(function, *shapes):
    mapped = jax.shard_map(
        function,
        mesh=mesh_of_8(),
        in_specs=(PartitionSpec("d"),) * len(shapes),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(mapped).lower(*arrays).compile().as_text()


def test_collectives_in_compiled_loops():
    def work(x):
        def inner(y, _):
            return jax.lax.psum(y, "d") * 0.5, None

        def outer(y, _):
            y, _ = jax.lax.scan(inner, y, length=3)
            whole = jax.lax.all_gather(y, "d")
            return y + whole.sum(0), None

        return jax.lax.scan(outer, x, length=5)[0]

    found = costs_of(parse(text_of(work, (8 * 6,))))
    # Six numbers of 4 bytes, summed 3 times and gathered from 8 devices, five times.
    assert found.collectives == {"all-reduce": 5 * 3 * 24, "all-gather": 5 * 8 * 24}
    assert found.wire_bytes == 5 * (3 * 2 * 24 * 7 / 8 + 8 * 24 * 7 / 8)


def test_a_compiled_scatter_and_a_permutation():
    def work(x):
        y = jax.lax.psum_scatter(x, "d", tiled=True)
        y = jax.lax.ppermute(y, "d", [(i, (i + 1) % 8) for i in range(8)])
        return jax.lax.psum(y, "d")

    found = costs_of(parse(text_of(work, (8 * 16,))))
    assert found.collectives == {
        "reduce-scatter": 2 * 4,
        "collective-permute": 2 * 4,
        "all-reduce": 2 * 4,
    }


def test_sums_and_products_of_costs():
    a = Costs(1, 2, {"all-reduce": 3}, 4.0, None)
    b = Costs(10, 20, {"all-gather": 30}, 40.0, 50)
    assert a + b == Costs(11, 22, {"all-reduce": 3, "all-gather": 30}, 44.0, 50)
    assert b * 3 == Costs(30, 60, {"all-gather": 90}, 120.0, 150)
    assert a * 2 == Costs(2, 4, {"all-reduce": 6}, 8.0, None)
