"""What instructions send, known by hand."""

import pytest

from medusa_jax.plan.costs import Costs, costs_of
from medusa_jax.plan.parse import parse

HEADER = "HloModule collectives, num_partitions=8\n"
ADD = """%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def one(line: str) -> Costs:
    """Of a program of one instruction on a parameter of 16 float32, or two of them."""
    entry = f"""ENTRY %main (x: f32[16], y: f32[16]) -> f32[] {{
  %x = f32[16]{{0}} parameter(0)
  %y = f32[16]{{0}} parameter(1)
  ROOT %it = {line}
}}
"""
    return costs_of(parse(HEADER + ADD + entry))


@pytest.mark.parametrize(
    ("line", "kind", "size", "wire"),
    [
        # A device of 8 sends 7/8 of what an all-gather gives, and twice that of an all-reduce.
        ("f32[128] all-gather(%x), replica_groups=[1,8]<=[8]", "all-gather", 512, 448),
        ("f32[32] all-gather(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}", "all-gather", 128, 64),
        ("f32[16] all-reduce(%x), replica_groups={}, to_apply=%add", "all-reduce", 64, 112),
        (
            "f32[16] all-reduce(%x), replica_groups=mesh['d'=2,'t'=4] {'t'}, to_apply=%add",
            "all-reduce",
            64,
            96,
        ),
        (
            "f32[16] all-reduce(%x), replica_groups=mesh['d'=2,'t'=4] {'d','t':(1)2}",
            "all-reduce",
            64,
            96,
        ),
        ("f32[2] reduce-scatter(%x), replica_groups=[1,8]<=[8]", "reduce-scatter", 8, 56),
        ("f32[16] all-to-all(%x), replica_groups=[1,8]<=[8]", "all-to-all", 64, 56),
        (
            "f32[16] collective-permute(%x), source_target_pairs={{0,1}}",
            "collective-permute",
            64,
            64,
        ),
        # What an asynchronous one repeats beside its result does not count.
        (
            "(f32[16], f32[128]) all-gather-start(%x), replica_groups=[1,8]<=[8]",
            "all-gather",
            512,
            448,
        ),
        (
            "((f32[16], f32[16]), (f32[128], f32[128])) all-gather-start(%x, %y), "
            "replica_groups=[1,8]<=[8]",
            "all-gather",
            1024,
            896,
        ),
        (
            "(f32[16], f32[16]) all-reduce-start(%x, %y), replica_groups=[1,8]<=[8]",
            "all-reduce",
            128,
            224,
        ),
        (
            "((f32[16], f32[16]), f32[16], f32[16]) all-reduce-start(%x, %y), "
            "replica_groups=[1,8]<=[8]",
            "all-reduce",
            128,
            224,
        ),
        (
            "(f32[16], f32[16], u32[], u32[]) collective-permute-start(%x)",
            "collective-permute",
            64,
            64,
        ),
    ],
)
def test_collectives(line, kind, size, wire):
    found = one(line)
    assert found.collectives == {kind: size}
    assert found.wire_bytes == wire


def test_the_end_of_an_asynchronous_one_is_none():
    assert one("f32[128] all-gather-done(%x)").collectives == {}


def entry(calls: str) -> str:
    return (
        f"ENTRY %main (x: f32[16]) -> f32[16] {{\n  %x = f32[16] parameter(0)\n{calls}"
        "  ROOT %y = f32[16] negate(%x)\n}\n"
    )


# What a TPU gathers while it multiplies is begun, carried on and ended in fusions.
TRIO = """%begin.N (p.N: f32[16]) -> (f32[16], f32[128]) {
  %p.N = f32[16] parameter(0)
  %a.N = f32[128] all-gather(%p.N), channel_id=7, dimensions={0}
  ROOT %b.N = (f32[16], f32[128]) custom-call(%a.N), custom_call_target="AsyncCollectiveStart"
}
%middle.N (q.N: f32[16]) -> f32[128] {
  %q.N = f32[16] parameter(0)
  ROOT %c.N = f32[128] all-gather(%q.N), channel_id=7, dimensions={0}
}
%end.N (r.N: f32[16]) -> f32[128] {
  %r.N = f32[16] parameter(0)
  %d.N = f32[128] all-gather(%r.N), channel_id=7, dimensions={0}
  ROOT %e.N = f32[128] custom-call(%r.N, %d.N), custom_call_target="AsyncCollectiveDone"
}
"""
CALLS = """  %f.N = (f32[16], f32[128]) fusion(%x), kind=kCustom, calls=%begin.N
  %g.N = f32[16] get-tuple-element(%f.N), index=0
  %h.N = f32[128] fusion(%g.N), kind=kCustom, calls=%middle.N
  %i.N = f32[128] fusion(%g.N), kind=kCustom, calls=%end.N
"""


@pytest.mark.parametrize("layers", [1, 3])
def test_one_that_three_fusions_share_counts_once(layers):
    """In each layer: those that share a function share its channels."""
    parts, calls = (
        "".join(text.replace("N", str(layer)) for layer in range(layers)) for text in (TRIO, CALLS)
    )
    found = costs_of(parse(HEADER + parts + entry(calls)))
    assert found.collectives == {"all-gather": layers * 512}


def test_fused_ones_of_one_channel_all_count():
    fused = "".join(
        f"""%fused.{number} (p.{number}: f32[16]) -> f32[128] {{
  %p.{number} = f32[16] parameter(0)
  ROOT %part.{number} = f32[128] all-gather(%p.{number}), channel_id=7, dimensions={{0}}
}}
"""
        for number in range(5)
    )
    calls = "".join(
        f"  %g.{number} = f32[128] fusion(%x), kind=kCustom, calls=%fused.{number}\n"
        for number in range(5)
    )
    assert costs_of(parse(HEADER + fused + entry(calls))).collectives == {"all-gather": 5 * 512}


@pytest.mark.parametrize(
    ("size", "kind", "result", "wire"),
    [(2, "reduce-scatter", 8, 56), (4, "all-reduce", 64, 112), (16, "all-reduce", 64, 112)],
)
def test_a_sum_of_which_each_device_keeps_its_part(size, kind, result, wire):
    """A TPU's compiler writes a reduce-scatter as a sum and a slice, in one fusion."""
    fused = f"""%scatter (p: f32[16]) -> f32[{size}] {{
  %p = f32[16] parameter(0)
  %sum.1 = f32[16] all-reduce(%p), channel_id=5, replica_groups=[1,8]<=[8], to_apply=%add
  %id = u32[] partition-id()
  ROOT %part = f32[{size}] dynamic-slice(%sum.1, %id), dynamic_slice_sizes={{{size}}}
}}
"""
    calls = f"  %s = f32[{size}] fusion(%x), kind=kCustom, calls=%scatter\n"
    found = costs_of(parse(HEADER + ADD + fused + entry(calls)))
    assert (found.collectives, found.wire_bytes) == ({kind: result}, wire)


def test_a_sum_and_a_slice_that_are_not_one_instruction_are_two():
    calls = """  %sum.1 = f32[16] all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %id = u32[] partition-id()
  %part = f32[2] dynamic-slice(%sum.1, %id), dynamic_slice_sizes={2}
"""
    assert costs_of(parse(HEADER + ADD + entry(calls))).collectives == {"all-reduce": 64}
