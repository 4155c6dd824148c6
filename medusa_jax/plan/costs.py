"""What a run of a program costs: walks its computations, counts loops as often as they run."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from medusa_jax.plan.arithmetic import operations
from medusa_jax.plan.hlo import Computation, Instruction, Program
from medusa_jax.plan.traffic import moved_bytes, started_results

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
_CHANNEL = re.compile(r"channel_id=(\d+)")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one device.

    Attributes:
      flops: operations of matrix products.
      hbm_bytes: moved to and from its memory.
      collectives: bytes of the results of collectives, by kind.
      wire_bytes: what it has to send for them, by the best algorithm of a ring.
      cycles: the compiler's estimate; None: it gives none.
    """

    flops: int = 0
    hbm_bytes: int = 0
    collectives: Mapping[str, int] = dataclasses.field(default_factory=dict)
    wire_bytes: float = 0.0
    cycles: int | None = None

    def __add__(self, other: "Costs") -> "Costs":
        kinds = {*self.collectives, *other.collectives}
        cycles = [c.cycles for c in (self, other) if c.cycles is not None]
        return Costs(
            self.flops + other.flops,
            self.hbm_bytes + other.hbm_bytes,
            {k: self.collectives.get(k, 0) + other.collectives.get(k, 0) for k in kinds},
            self.wire_bytes + other.wire_bytes,
            sum(cycles) if cycles else None,
        )

    def __mul__(self, times: int) -> "Costs":
        return Costs(
            self.flops * times,
            self.hbm_bytes * times,
            {kind: size * times for kind, size in self.collectives.items()},
            self.wire_bytes * times,
            None if self.cycles is None else self.cycles * times,
        )


def costs_of(program: Program, computation: str | None = None) -> Costs:
    """What a run of a computation costs, with all that it calls.

    Loops whose trips the program does not state run once. Of the branches of a conditional, the
    costliest counts.

    Args:
      program: parsed.
      computation: default: the entry.
    """
    return _Walk(program).of(computation or program.entry)


def unknown_loops(program: Program) -> Iterator[Instruction]:
    """Loops of the entry computation whose trips the program does not state."""
    entry = program.computations[program.entry]
    for instruction in entry.instructions.values():
        if instruction.opcode == "while" and program.trips(entry, instruction) is None:
            yield instruction


def step_costs(program: Program) -> Costs:
    """One trip of the costliest loop of unknown trips: a step of decoding.

    Raises:
      ValueError: there is none.
    """
    walk = _Walk(program)
    bodies = [walk.of(loop.called["body"]) for loop in unknown_loops(program)]
    if not bodies:
        raise ValueError("the program has no loop of unknown trips")
    return max(bodies, key=_weight)


def _weight(costs: Costs) -> tuple[int, int]:
    return costs.hbm_bytes, costs.flops


class _Walk:
    """Remembers computations that are called more than once."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[tuple[str, bool], Costs] = {}
        self._fused_channels: set[str] = set()

    def of(self, name: str, fused: bool = False) -> Costs:
        """Costs of a computation; fused ones move nothing themselves."""
        if (name, fused) not in self._known:
            computation, total = self._program.computations[name], Costs()
            for instruction in computation.instructions.values():
                total += self._instruction(computation, instruction, fused)
            self._known[name, fused] = total
        return self._known[name, fused]

    def _instruction(
        self, computation: Computation, instruction: Instruction, fused: bool
    ) -> Costs:
        called = instruction.called
        own = Costs(
            flops=operations(computation, instruction),
            hbm_bytes=0 if fused else moved_bytes(self._program, computation, instruction),
            cycles=None if fused else instruction.cycles,
        )
        if not (fused and self._was_counted(instruction)):
            own += _collective(self._program, instruction)
        if instruction.opcode == "while":
            trips = self._program.trips(computation, instruction)
            trip = self.of(called["body"]) + self.of(called["condition"])
            return own + trip * (1 if trips is None else trips)
        if instruction.opcode == "conditional":
            names = instruction.branches or (
                called["true_computation"],
                called["false_computation"],
            )
            return own + max((self.of(name) for name in names), key=_weight)
        if instruction.opcode == "fusion":
            return own + self.of(called["calls"], fused=True)
        if instruction.opcode in ("call", "async-start"):
            inside = called.get("calls") or called["to_apply"]
            return own + self.of(inside, fused)
        return own

    def _was_counted(self, instruction: Instruction) -> bool:
        """Whether another fusion has it: a TPU begins, continues and ends a gathering in three.

        These fusions are what stands beside it, and each repeats the whole collective.
        """
        channel = _CHANNEL.search(instruction.text)
        if channel is None:
            return False
        was_counted = channel[1] in self._fused_channels
        self._fused_channels.add(channel[1])
        return was_counted


def _collective(program: Program, instruction: Instruction) -> Costs:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return Costs()
    is_start = instruction.opcode.endswith("-start")
    results = started_results(instruction) if is_start else instruction.results
    size = sum(array.nbytes for array in results)
    members = _members(program, instruction)
    sent = {
        "all-gather": size * (members - 1) / members,
        "all-reduce": 2 * size * (members - 1) / members,
        "reduce-scatter": size * (members - 1),
        "all-to-all": size * (members - 1) / members,
        "collective-permute": size,
    }
    return Costs(collectives={kind: size}, wire_bytes=float(sent[kind]))


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
