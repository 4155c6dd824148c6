"""The parser against programs written by hand."""

import pytest

from medusa_jax.plan.hlo import Array, parse

LOOPS = """HloModule loops, is_scheduled=true, num_partitions=4, replica_count=2
%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, /*index=1*/f32[8]{0:T(256)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %x = f32[8]{0:T(256)S(1)} get-tuple-element(%carry), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %y = f32[8]{0:T(256)S(1)} tanh(%x), backend_config={"window_config":{"estimated_cycles":"70"}}
  ROOT %out = (s32[]{:T(128)}, f32[8]{0:T(256)S(1)}) tuple(%next, %y)
}
%condition (carry.1: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit = s32[] constant(7)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[] compare(%i.1, %limit), direction=LT
}
%until_asked (carry.2: (s32[], f32[8])) -> pred[] {
  %carry.2 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.2 = s32[] constant(7)
  %i.2 = s32[] get-tuple-element(%carry.2), index=0
  %lt.2 = pred[] compare(%i.2, %limit.2), direction=LT
  ROOT %and = pred[] and(%lt.2, %lt.2)
}
%less (a: s32[], b: s32[]) -> pred[] {
  %b = s32[] parameter(1)
  %a = s32[] parameter(0)
  ROOT %lt.3 = pred[] compare(%a, %b), direction=LT
}
%fused_condition (carry.3: (s32[], f32[8])) -> pred[] {
  %carry.3 = (s32[], f32[8]{0:S(1)}) parameter(0)
  %limit.3 = s32[] constant(9)
  %i.3 = s32[] get-tuple-element(%carry.3), index=0
  ROOT %fused = pred[] fusion(%i.3, %limit.3), kind=kLoop, calls=%less
}
%two_at_once (carry.4: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry.4 = (s32[], f32[8]{0}) parameter(0)
  %i.4 = s32[] get-tuple-element(%carry.4), index=0
  %x.4 = f32[8]{0} get-tuple-element(%carry.4), index=1
  %two = s32[] constant(2)
  %next.4 = s32[] add(%i.4, %two)
  ROOT %out.4 = (s32[], f32[8]{0}) tuple(%next.4, %x.4)
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0), metadata={op_name="x (in parentheses)"}
  %start = s32[] constant(2)
  %copied = s32[] copy(%start)
  %first = (s32[], f32[8]{0:S(1)}) tuple(%copied, %p)
  %stated = (s32[], f32[8]{0}) while(%first), condition=%until_asked, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %from_two = (s32[], f32[8]{0}) while(%first), condition=%condition, body=%body
  %fused_loop = (s32[], f32[8]{0}) while(%first), condition=%fused_condition, body=%body
  %by_twos = (s32[], f32[8]{0}) while(%first), condition=%condition, body=%two_at_once
  %open = (s32[], f32[8]{0}) while(%first), condition=%until_asked, body=%body
  ROOT %end = f32[8]{0} get-tuple-element(%open), index=1
}
"""  # noqa: E501


def test_a_program_is_taken_apart():
    program = parse(LOOPS)
    assert program.entry == "main"
    assert program.num_devices == 8
    assert len(program.computations) == 7
    body = program.computations["body"]
    assert body.root.name == "out"
    assert body.root.operands == ("next", "y")
    assert body.instructions["carry"].results == (Array("s32", ()), Array("f32", (8,), 1))
    assert body.instructions["y"].cycles == 70
    assert body.instructions["x"].cycles is None
    assert [user.name for user in body.users["i"]] == ["next"]
    assert program.computations["less"].parameters[0].name == "a"


@pytest.mark.parametrize(("said", "cycles"), [(70, 70), (2**63 - 1, None)])
def test_the_largest_integer_is_no_estimate(said, cycles):
    """The TPU's compiler says it of two fusions in a step of MEDUSA-2 for a v6e."""
    program = parse(LOOPS.replace('"estimated_cycles":"70"', f'"estimated_cycles":"{said}"'))
    assert program.computations["body"].instructions["y"].cycles == cycles


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


@pytest.mark.parametrize(
    ("loop", "trips"),
    [("stated", 5), ("from_two", 5), ("fused_loop", 7), ("by_twos", 3), ("open", None)],
)
def test_how_often_a_loop_runs(loop, trips):
    program = parse(LOOPS)
    main = program.computations["main"]
    assert program.trips(main, main.instructions[loop]) == trips


@pytest.mark.parametrize(
    ("array", "nbytes"),
    [
        (Array("bf16", (3, 5)), 30),
        (Array("f32", ()), 4),
        (Array("s4", (3,)), 2),  # a byte and a half
        (Array("pred", (7,)), 7),
        (Array("f8e4m3fn", (10,)), 10),
        (Array("c64", (2,)), 16),
        (Array("token", ()), 0),
        (Array("f32", (0, 4)), 0),
    ],
)
def test_bytes(array, nbytes):
    assert array.nbytes == nbytes
    assert array.hbm_bytes == nbytes


def test_what_lies_in_the_cores_own_memory_is_not_in_the_devices():
    assert Array("f32", (8,), 1).hbm_bytes == 0


def test_no_program():
    with pytest.raises(ValueError, match="no entry"):
        parse("HloModule nothing\n")
