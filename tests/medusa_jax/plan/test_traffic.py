"""Bytes moved, of instructions whose traffic is known by hand."""

import pytest

from medusa_jax.plan.parse import parse
from medusa_jax.plan.traffic import moved_bytes

# A table of 1000 x 8 float32 (32,000 bytes), of which 4 rows (128 bytes) are touched.
PROGRAM = """HloModule moves
%take_four (t: f32[1000,8], at: s32[]) -> f32[4,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %seen = f32[1000,8]{1,0} bitcast(%t)
  ROOT %four = f32[4,8]{1,0} dynamic-slice(%seen, %at, %zero), dynamic_slice_sizes={4,8}
}
%write_four (t.1: f32[1000,8], new: f32[4,8], at.1: s32[]) -> f32[1000,8] {
  %t.1 = f32[1000,8]{1,0} parameter(0)
  %new = f32[4,8]{1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %dus = f32[1000,8]{1,0} dynamic-update-slice(%t.1, %new, %at.1, %zero.1)
}
%pass (in: f32[1000,8]) -> f32[8000] {
  %in = f32[1000,8]{1,0} parameter(0)
  ROOT %flat = f32[8000]{0} bitcast(%in)
}
%pass_through (in.1: f32[1000,8]) -> f32[1000,8] {
  ROOT %in.1 = f32[1000,8]{1,0} parameter(0)
}
%sum_all (t.2: f32[1000,8]) -> f32[] {
  %t.2 = f32[1000,8]{1,0} parameter(0)
  %nested = f32[8000]{0} fusion(%t.2), kind=kLoop, calls=%pass
  %none = f32[] constant(0)
  ROOT %total = f32[] reduce(%nested, %none), dimensions={0}, to_apply=%sum
}
%sum_a_part (h: f32[2,1000,8]) -> f32[1000,2] {
  %h = f32[2,1000,8]{2,1,0} parameter(0)
  %nought = f32[] constant(0)
  %both = f32[1000,8]{1,0} reduce(%h, %nought), dimensions={0}, to_apply=%sum
  %left = f32[1000,1]{1,0} slice(%both), slice={[0:1000], [0:1]}
  %right = f32[1000,1]{1,0} slice(%both), slice={[0:1000], [7:8]}
  ROOT %joined = f32[1000,2]{1,0} concatenate(%left, %right), dimensions={1}
}
ENTRY %main (table: f32[1000,8], rows: f32[4,8], i: s32[], near: f32[1000,8], halves: f32[2,1000,8]) -> f32[1000,8] {
  %table = f32[1000,8]{1,0} parameter(0)
  %rows = f32[4,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %near = f32[1000,8]{1,0:S(1)} parameter(3)
  %halves = f32[2,1000,8]{2,1,0} parameter(4)
  %z = s32[] constant(0)
  %index = s32[4,1]{1,0} constant({...})
  %copied = f32[1000,8]{1,0} copy(%table)
  %fetched = f32[1000,8]{1,0:S(1)} copy(%table)
  %added = f32[1000,8]{1,0} add(%near, %copied)
  %sliced = f32[4,8]{1,0} dynamic-slice(%table, %i, %z), dynamic_slice_sizes={4,8}
  %gathered = f32[4,8]{1,0} gather(%table, %index), offset_dims={1}
  %updated = f32[1000,8]{1,0} dynamic-update-slice(%table, %rows, %i, %z)
  %scattered = f32[1000,8]{1,0} scatter(%table, %index, %rows), to_apply=%sum
  %fused_slice = f32[4,8]{1,0} fusion(%table, %i), kind=kLoop, calls=%take_four
  %fused_update = f32[1000,8]{1,0} fusion(%table, %rows, %i), kind=kLoop, calls=%write_four
  %fused_sum = f32[] fusion(%table), kind=kLoop, calls=%sum_all
  %fused_part = f32[1000,2]{1,0} fusion(%halves), kind=kLoop, calls=%sum_a_part
  %appended = (f32[1000,8]{1,0}, f32[1000,8]{1,0}) custom-call(%i, %rows, %table, %copied), custom_call_target="__gpu$xla.gpu.triton", output_to_operand_aliasing={{0}: (2, {}), {1}: (3, {})}, backend_config={}
  %replaced = f32[1000,8]{1,0} custom-call(%rows, %table), custom_call_target="some_kernel", output_to_operand_aliasing={{}: (1, {})}
  %matmul = (f32[4,8]{1,0}, s8[4194304]{0}) custom-call(%rows, %table, %rows), custom_call_target="__cublas$lt$matmul", output_to_operand_aliasing={{0}: (2, {})}
  %begun = (f32[1000,8]{1,0:S(1)}, f32[1000,8]{1,0}, u32[]{:S(2)}) copy-start(%table)
  %done = f32[1000,8]{1,0:S(1)} copy-done(%begun)
  %part = (f32[1000,8]{1,0}, f32[4,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%table), slice={[0:4],[0:8]}
  %near_part = (f32[1000,8]{1,0:S(1)}, f32[4,8]{1,0}, s32[]{:S(2)}) slice-start(%near), slice={[0:4],[0:8]}
  %begun_update = ((f32[1000,8]{1,0}), f32[1000,8]{1,0}, u32[]) async-update(%table), calls=%pass
  %barred = f32[1000,8]{1,0} opt-barrier(%table)
  %convolved = (f32[4,8]{1,0}, u8[4194304]{0}) custom-call(%rows, %table), custom_call_target="__cudnn$convForward"
  %fused_pass = f32[8000]{0} fusion(%table), kind=kLoop, calls=%pass_through
  %viewed = f32[8000]{0} bitcast(%table)
  ROOT %out = (f32[1000,8]{1,0}) tuple(%table)
}
"""  # noqa: E501
TABLE, ROWS = 32_000, 128


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("table", 0),
        ("copied", 2 * TABLE),
        ("fetched", TABLE),
        ("added", 2 * TABLE),  # one operand lies in the core's own memory
        ("sliced", 2 * ROWS + 4),  # and the index
        ("gathered", 2 * ROWS + 16),
        ("updated", 2 * ROWS + 4),
        ("scattered", 2 * ROWS + 16),
        ("fused_slice", 2 * ROWS + 4),
        ("fused_update", 2 * ROWS + 4),
        ("fused_sum", TABLE + 4),
        ("fused_part", 2 * TABLE // 4 + 8 * 1000),  # two of eight columns, and the result
        ("appended", 2 * (ROWS + 4)),  # a kernel that changes two tables in place
        ("replaced", 2 * ROWS),
        ("matmul", TABLE + 3 * ROWS),  # not the library's room to work in
        ("begun", TABLE),
        ("done", 0),
        ("part", ROWS),
        ("near_part", ROWS),  # read in the core's own memory
        ("begun_update", 0),
        ("barred", 0),
        ("convolved", TABLE + 2 * ROWS),
        ("fused_pass", 2 * TABLE),
        ("viewed", 0),
        ("out", 0),
    ],
)
def test_bytes_moved(name, expected):
    program = parse(PROGRAM)
    main = program.computations["main"]
    # Constants of four bytes for indices are read too.
    constants = 4 * main.instructions[name].operands.count("z")
    assert moved_bytes(program, main, main.instructions[name]) == expected + constants
