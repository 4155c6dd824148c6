"""The parser against programs written by hand."""

import pytest

from medusa_jax.plan.hlo import Array
from medusa_jax.plan.parse import parse
from tests.medusa_jax.plan.loops import LOOPS


def test_a_program_is_taken_apart():
    program = parse(LOOPS)
    assert program.entry == "main"
    assert program.num_devices == 8
    assert len(program.computations) == 10
    body = program.computations["body"]
    assert body.root.name == "out"
    assert body.root.operands == ("next", "y")
    assert body.instructions["carry"].results == (Array("s32", ()), Array("f32", (8,), 1))
    assert body.instructions["y"].cycles == 70
    assert body.instructions["x"].cycles is None
    assert [user.name for user in body.users["i"]] == ["next"]
    assert program.computations["less"].parameters[0].name == "a"


METADATA = """HloModule kernels, num_partitions=1
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %k = (f32[8]{0}, f32[4]{0}) custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"77"}}}
  ROOT %c = f32[8]{0} get-tuple-element(%k), index=0, frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, backend_config={"window_config":{"estimated_cycles":"70"}}
}
"""  # noqa: E501


def test_an_instruction_that_a_kernels_metadata_breaks_in_pieces():
    main = parse(METADATA).computations["main"]
    assert list(main.instructions) == ["p", "k", "c"]
    assert main.instructions["k"].attribute(r'"flops":"(\d+)"') == "77"
    assert main.root.cycles == 70


def test_bounded_sizes_and_named_branches():
    text = """HloModule bounds
ENTRY %main (p: f32[<=8,4], k: s32[]) -> f32[<=8,4] {
  %p = f32[<=8,4]{1,0} parameter(0)
  %k = s32[] parameter(1)
  ROOT %c = f32[<=8,4]{1,0} conditional(%k, %p, %p), called_computations={%a, %b}
}
"""
    main = parse(text).computations["main"]
    assert main.root.results == (Array("f32", (8, 4)),)
    assert main.root.branches == ("a", "b")


def test_no_program():
    with pytest.raises(ValueError, match="no entry"):
        parse("HloModule nothing\n")
