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
