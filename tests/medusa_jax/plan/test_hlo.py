"""What is said of programs and arrays, against programs written by hand."""

import pytest

from medusa_jax.plan.hlo import Array
from medusa_jax.plan.parse import parse
from tests.medusa_jax.plan.loops import LOOPS


@pytest.mark.parametrize(("said", "cycles"), [(70, 70), (2**63 - 1, None)])
def test_the_largest_integer_is_no_estimate(said, cycles):
    """The TPU's compiler says it of two fusions in a step of MEDUSA-2 for a v6e."""
    program = parse(LOOPS.replace('"estimated_cycles":"70"', f'"estimated_cycles":"{said}"'))
    assert program.computations["body"].instructions["y"].cycles == cycles


@pytest.mark.parametrize(
    ("loop", "trips"),
    [
        ("stated", 5), ("from_two", 5), ("fused_loop", 7), ("by_twos", 3), ("open", None),
        ("down", None), ("none", 0), ("untold", 5),
    ],
)  # fmt: skip
def test_how_often_a_loop_runs(loop, trips):
    program = parse(LOOPS)
    main = program.computations["main"]
    assert program.trips(main, main.instructions[loop]) == trips


def test_parameters_are_in_the_order_of_their_numbers():
    lines = "".join(f"  %p{n} = f32[] parameter({n})\n" for n in (10, 2, 9, 0, 1, 3, 4, 5, 6, 7, 8))
    text = f"HloModule many\nENTRY %main () -> f32[] {{\n{lines}  ROOT %r = f32[] negate(%p0)\n}}\n"
    parameters = parse(text).computations["main"].parameters
    assert [parameter.name for parameter in parameters] == [f"p{n}" for n in range(11)]


def test_only_what_is_cut_out_of_a_value_is_a_part_of_it():
    """Not what is cut out of another at a place that the value says."""
    text = """HloModule cuts
ENTRY %main (t: f32[8], at: s32[4]) -> f32[2] {
  %t = f32[8]{0} parameter(0)
  %at = s32[4]{0} parameter(1)
  ROOT %two = f32[2]{0} dynamic-slice(%t, %at), dynamic_slice_sizes={2}
}
"""
    shares = parse(text).computations["main"].shares
    assert (shares["t"], shares["at"]) == (0.25, 1.0)


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
