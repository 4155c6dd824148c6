"""What a run of a program costs: walks its computations, counts loops as often as they run."""

import dataclasses
from collections.abc import Iterator, Mapping

from medusa_jax.plan.arithmetic import is_exact, operations
from medusa_jax.plan.collectives import collective
from medusa_jax.plan.hlo import Computation, Instruction, Program
from medusa_jax.plan.traffic import moved_bytes


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of one device.

    Attributes:
      flops: operations of matrix products.
      hbm_bytes: moved to and from its memory.
      collectives: bytes of the results of collectives, by kind.
      wire_bytes: what it has to send for them, by the best algorithm of a ring.
      cycles: the compiler's estimate; None: it gives none.
      exact_flops: how many of `flops` are of products that are exact to float32.
    """

    flops: int = 0
    hbm_bytes: int = 0
    collectives: Mapping[str, int] = dataclasses.field(default_factory=dict)
    wire_bytes: float = 0.0
    cycles: int | None = None
    exact_flops: int = 0

    def __add__(self, other: "Costs") -> "Costs":
        kinds = {*self.collectives, *other.collectives}
        cycles = [c.cycles for c in (self, other) if c.cycles is not None]
        return Costs(
            self.flops + other.flops,
            self.hbm_bytes + other.hbm_bytes,
            {k: self.collectives.get(k, 0) + other.collectives.get(k, 0) for k in kinds},
            self.wire_bytes + other.wire_bytes,
            sum(cycles) if cycles else None,
            self.exact_flops + other.exact_flops,
        )

    def __mul__(self, times: int) -> "Costs":
        return Costs(
            self.flops * times,
            self.hbm_bytes * times,
            {kind: size * times for kind, size in self.collectives.items()},
            self.wire_bytes * times,
            None if self.cycles is None else self.cycles * times,
            self.exact_flops * times,
        )


def costs_of(program: Program) -> Costs:
    """What a run of a program costs.

    Loops whose trips the program does not state run once. Of the branches of a conditional, the
    costliest counts.
    """
    return _Walk(program).of(program.entry)


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
        flops = operations(computation, instruction)
        own = Costs(
            flops=flops,
            exact_flops=flops if is_exact(instruction) else 0,
            hbm_bytes=0 if fused else moved_bytes(self._program, computation, instruction),
            cycles=None if fused else instruction.cycles,
        )
        if sent := collective(self._program, computation, instruction, fused=fused):
            kind, size, wire_bytes = sent
            own += Costs(collectives={kind: size}, wire_bytes=wire_bytes)
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
