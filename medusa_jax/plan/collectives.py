"""What devices send each other."""

import math
import re

from medusa_jax.plan.hlo import Computation, Instruction, Program
from medusa_jax.plan.traffic import started_results

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# {{0,1},{2,3}}, [2,4]<=[8], or mesh['a'=2,'b'=4] {'b'}; 'b':(1)2 is only a part, 2, of an axis.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")


def collective(
    program: Program, computation: Computation, instruction: Instruction, *, fused: bool
) -> tuple[str, int, float] | None:
    """What an instruction sends, if it is a collective.

    Args:
      program: that holds it.
      computation: that holds it.
      instruction: any.
      fused: whether the computation is that of a fusion.

    Returns:
      Its kind, the bytes of its results, and those that a device sends by the best algorithm of a
      ring. None: it is no collective, or counts where it begins.
    """
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES or (fused and _began_elsewhere(program, computation, instruction)):
        return None
    is_start = instruction.opcode.endswith("-start")
    results = started_results(instruction) if is_start else instruction.results
    size, members = sum(array.nbytes for array in results), _members(program, instruction)
    if fused and kind == "all-reduce" and _keeps_a_part(computation, instruction, members):
        kind, size = "reduce-scatter", size // members
    sent = {
        "all-gather": size * (members - 1) / members,
        "all-reduce": 2 * size * (members - 1) / members,
        "reduce-scatter": size * (members - 1),
        "all-to-all": size * (members - 1) / members,
        "collective-permute": size,
    }
    return kind, size, float(sent[kind])


def _began_elsewhere(program: Program, computation: Computation, instruction: Instruction) -> bool:
    """Whether another fusion counts: a TPU begins, carries on and ends a gathering in three.

    These fusions are what stands beside it, and each repeats the whole collective. A channel alone
    says nothing: layers that share a function share its channels.
    """
    return instruction.channel in program.begun_channels and not computation.begins_collective


def _keeps_a_part(computation: Computation, instruction: Instruction, members: int) -> bool:
    """Whether every device cuts its part out of the sum: so a TPU writes a reduce-scatter."""
    return members > 1 and computation.shares[instruction.name] <= 1 / members


def _members(program: Program, instruction: Instruction) -> int:
    """Devices in each group that takes part; without groups, all of them."""
    text = instruction.text
    if match := _LISTED.search(text):
        return len(match[1].split(","))
    if match := _COUNTED.search(text):
        return int(match[1])
    if match := _AXES.search(text):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in parts)
    return program.num_devices
