"""Bytes that an instruction moves to and from a device's main memory.

Every instruction reads its operands and writes its results once, whatever it does with them. It
touches only a part of what it slices, gathers from or updates in place. What lies in a core's own
memory moves nothing, and inside a fusion nothing moves but at its edges.
"""

import math
import re
from collections.abc import Sequence

from medusa_jax.plan.hlo import Array, Computation, Instruction, Program

# These move nothing, or what they call does.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "while", "conditional", "call", "async-start", "domain",
    "add-dependency",
}  # fmt: skip
_TAKES_A_PART = ("dynamic-slice", "slice", "gather")


def moved_bytes(program: Program, computation: Computation, instruction: Instruction) -> int:
    """Bytes read and written in the device's main memory, in one run of an instruction.

    Args:
      program: the one that holds both.
      computation: the one that holds the instruction.
      instruction: not part of a fusion.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0
    if opcode == "fusion":
        return _fusion_bytes(program, computation, instruction)
    operands = computation.arrays(instruction)
    if opcode == "custom-call" and (aliased := _aliased_operands(instruction)):
        return _updated_in_place(operands, aliased)
    if opcode.endswith("-start"):
        return _started_bytes(instruction, operands)
    reads = sum(
        _part_read(instruction, number, _hbm(arrays)) for number, arrays in enumerate(operands)
    )
    return reads + _written(computation, instruction)


def _aliased_operands(instruction: Instruction) -> set[int]:
    """Numbers of the operands whose place a kernel's results take."""
    if "output_to_operand_aliasing" not in instruction.text or _is_library(instruction):
        return set()
    return {int(number) for number in re.findall(r"\{\d*\}: \((\d+), \{", instruction.text)}


def _is_library(instruction: Instruction) -> bool:
    """Whether it is a call to one of NVIDIA's libraries."""
    return instruction.attribute(r'custom_call_target="(__cublas\$|__cudnn\$)') is not None


def _updated_in_place(operands: Sequence[tuple[Array, ...]], aliased: set[int]) -> int:
    """Bytes of a kernel that changes some operands: it writes about what it reads of the others."""
    others = (arrays for number, arrays in enumerate(operands) if number not in aliased)
    return 2 * sum(map(_hbm, others))


def _hbm(arrays: Sequence[Array]) -> int:
    return sum(array.hbm_bytes for array in arrays)


def _started_bytes(instruction: Instruction, operands: Sequence[tuple[Array, ...]]) -> int:
    """Bytes of copies, slices and collectives whose result comes later."""
    results = started_results(instruction)
    source = sum(map(_hbm, operands))
    if instruction.opcode == "slice-start":
        in_hbm = any(array.space == 0 for arrays in operands for array in arrays)
        source = sum(array.nbytes for array in results) if in_hbm else 0
    return source + _hbm(results)


def started_results(instruction: Instruction) -> tuple[Array, ...]:
    """What an instruction ending in -start will give, without what it repeats beside that."""
    arrays, count = instruction.results, len(instruction.operands)
    if instruction.opcode == "copy-start":  # (destination, source, context)
        return arrays[:1]
    # Operands, then results; those of an all-reduce stood alone before jax 0.12.
    return arrays[count : 2 * count] or arrays


def _part_read(instruction: Instruction, number: int, whole: int) -> int:
    """Bytes that an instruction reads of one operand, `whole` of which are in main memory."""
    opcode = instruction.opcode
    if number == 0 and opcode in _TAKES_A_PART:
        return min(whole, sum(array.nbytes for array in instruction.results))
    if number == 0 and opcode in ("dynamic-update-slice", "scatter"):
        return 0
    return whole


def _written(computation: Computation, instruction: Instruction) -> int:
    """Bytes that an instruction writes."""
    if _is_library(instruction):
        return _hbm(instruction.results[:-1])  # the last is room for the library to work in
    whole = _hbm(instruction.results)
    if instruction.opcode in ("dynamic-update-slice", "scatter"):
        update = 1 if instruction.opcode == "dynamic-update-slice" else -1
        arrays = computation.instructions[instruction.operands[update]].results
        return min(whole, sum(array.nbytes for array in arrays))
    return whole


def _fusion_bytes(program: Program, computation: Computation, fusion: Instruction) -> int:
    inside = program.computations[fusion.called["calls"]]
    operands = [_hbm(arrays) for arrays in computation.arrays(fusion)]
    reads = sum(
        _read_inside(program, inside, parameter, whole)
        for parameter, whole in zip(inside.parameters, operands, strict=True)
    )
    return reads + _fusion_writes(program, inside, fusion.results)


def _fusion_writes(program: Program, inside: Computation, results: Sequence[Array]) -> int:
    """Bytes of the results, or only of what the fusion changes in them."""
    root = inside.root
    roots = [root]
    if root.opcode == "tuple":
        roots = [inside.instructions[name] for name in root.operands]
    if len(roots) != len(results):
        return _hbm(results)
    changed = [_changed(program, inside, r) for r in roots]
    return sum(
        array.hbm_bytes if part is None else min(part, array.hbm_bytes)
        for array, part in zip(results, changed, strict=True)
    )


def _changed(program: Program, inside: Computation, root: Instruction) -> int | None:
    """Bytes of an update in place; None: the root is something else."""
    root = _unwrapped(inside, root)
    if root.opcode == "fusion":
        nested = program.computations[root.called["calls"]]
        return _changed(program, nested, nested.root)
    if root.opcode in ("dynamic-update-slice", "scatter"):
        update = 1 if root.opcode == "dynamic-update-slice" else -1
        return sum(a.nbytes for a in inside.instructions[root.operands[update]].results)
    return None


def _read_inside(program: Program, inside: Computation, value: Instruction, whole: int) -> int:
    """Bytes that a fusion reads of a parameter, or of a bitcast of it: at most `whole`."""
    if value.is_root:  # passed through
        return whole
    users = inside.users[value.name]
    return min(whole, sum(_user_reads(program, inside, user, value, whole) for user in users))


def _user_reads(
    program: Program, inside: Computation, user: Instruction, value: Instruction, whole: int
) -> int:
    places = [place for place, name in enumerate(user.operands) if name == value.name]
    if user.opcode == "bitcast":
        return _read_inside(program, inside, user, whole)
    if user.opcode != "fusion":
        part = max(_part_read(user, place, whole) for place in places)
        return math.ceil(part * inside.shares[user.name])
    nested = program.computations[user.called["calls"]]
    parts = []
    for parameter in (nested.parameters[place] for place in places):
        is_passed = _unwrapped(nested, nested.root) is parameter
        where, what = (inside, user) if is_passed else (nested, parameter)
        parts.append(_read_inside(program, where, what, whole))
    return max(parts)


def _unwrapped(computation: Computation, value: Instruction) -> Instruction:
    """The value that a bitcast, or a bitcast of one, was made from."""
    while value.opcode == "bitcast":
        value = computation.instructions[value.operands[0]]
    return value
