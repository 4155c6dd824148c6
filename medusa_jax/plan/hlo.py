"""An optimized program: computations, instructions, shapes, loops."""

import dataclasses
import functools
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN_CYCLES = 2**63 - 1
_BEGINS = 'custom_call_target="AsyncCollectiveStart"'


@dataclasses.dataclass(frozen=True)
class Array:
    """Type of an array in a program.

    Attributes:
      dtype: as the compiler spells it, "bf16".
      dims: sizes of its axes.
      space: where it lies; 0 is the device's main memory, on a TPU 1 is the core's own.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes, without the padding of tiles."""
        return -(-self.size * _bits(self.dtype) // 8)

    @property
    def hbm_bytes(self) -> int:
        """Bytes in the device's main memory: none of what lies elsewhere."""
        return self.nbytes if self.space == 0 else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: "fusion", "while", "all-gather-start" ...
      results: the arrays that it gives, a tuple's in order.
      operands: names of instructions of the same computation.
      called: computations by the attribute that names them ("calls", "body" ...).
      branches: of a conditional.
      text: what stands in the parentheses and after them.
      is_root: whether it is the computation's result.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    called: dict[str, str]
    branches: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate of its cycles; None: it has none."""
        match = _CYCLES.search(self.text)
        cycles = int(match[1]) if match else _UNKNOWN_CYCLES
        return None if cycles == _UNKNOWN_CYCLES else cycles

    @property
    def channel(self) -> str | None:
        """The number that a collective's copies share."""
        return self.attribute(r"channel_id=(\d+)")

    def attribute(self, pattern: str) -> str | None:
        """What the group of a regular expression matches in the text."""
        match = re.search(pattern, self.text)
        return match[1] if match else None


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The one whose value is the computation's."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In the order of their numbers."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.text.partition(")")[0]))

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in set(instruction.operands):
                users[operand].append(instruction)
        return users

    @functools.cached_property
    def shares(self) -> dict[str, float]:
        """How much of each instruction the root needs at most: all, or what is sliced out of it."""
        shares: dict[str, float] = {}
        for name, value in reversed(self.instructions.items()):
            taken = (_taken(value, user) * shares[user.name] for user in self.users[name])
            shares[name] = 1.0 if value.is_root else min(1.0, sum(taken))
        return shares

    @functools.cached_property
    def begins_collective(self) -> bool:
        """Whether it begins what other fusions carry on and end."""
        return any(_BEGINS in i.text for i in self.instructions.values())

    def arrays(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """What each operand holds."""
        return [self.instructions[name].results for name in instruction.operands]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Computations by name, the one that is run, and how many devices run it together."""

    computations: dict[str, Computation]
    entry: str
    num_devices: int = 1

    @functools.cached_property
    def begun_channels(self) -> frozenset[str | None]:
        """Of collectives that one fusion begins and others carry on and end."""
        begun = (c for c in self.computations.values() if c.begins_collective)
        return frozenset(i.channel for c in begun for i in c.instructions.values()) - {None}

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a while's body runs; None: the program does not say.

        Args:
          computation: that holds it.
          loop: a "while".
        """
        match = _TRIPS.search(loop.text)
        if match:
            return int(match[1])
        bound = self._bound(self.computations[loop.called["condition"]])
        if bound is None:
            return None
        limit, place = bound
        start = _element(computation, computation.instructions[loop.operands[0]], place)
        step = self._step(self.computations[loop.called["body"]], place)
        return max(-(-(limit - (_number(computation, start) or 0)) // step), 0)

    def _step(self, body: Computation, place: int) -> int:
        """By how much a trip raises element `place` of the carry: in windowed products, by two."""
        raised = _element(body, body.root, place)
        if raised is None or raised.opcode != "add":
            return 1
        terms = [_number(body, body.instructions[name]) for name in raised.operands]
        return next((term for term in terms if term), 1)

    def _bound(self, condition: Computation) -> tuple[int, int] | None:
        """N and k of a condition that is "element k of the carry < N"."""
        root, inside = condition.root, condition
        outer: list[Instruction] = []
        if root.opcode == "fusion":
            outer = [condition.instructions[name] for name in root.operands]
            inside = self.computations[root.called["calls"]]
            root = inside.root
        if root.opcode != "compare" or "direction=LT" not in root.text:
            return None
        sides = [inside.instructions[name] for name in root.operands]
        if outer:
            sides = [
                outer[inside.parameters.index(s)] if s.opcode == "parameter" else s for s in sides
            ]
        place, limit = (
            sides[0].attribute(r"\bindex=(\d+)"),
            _number(condition if outer else inside, sides[1]),
        )
        return None if place is None or limit is None else (limit, int(place))


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def _taken(value: Instruction, user: Instruction) -> float:
    """The part of a value that a user touches."""
    if user.opcode not in ("slice", "dynamic-slice") or user.operands[0] != value.name:
        return 1.0
    return user.results[0].size / max(value.results[0].size, 1)


def _element(computation: Computation, carry: Instruction, place: int) -> Instruction | None:
    if carry.opcode != "tuple" or place >= len(carry.operands):
        return None
    return computation.instructions[carry.operands[place]]


def _number(computation: Computation, instruction: Instruction | None) -> int | None:
    """The value of an integer constant, or of a copy of one."""
    while instruction is not None and instruction.opcode == "copy":
        instruction = computation.instructions[instruction.operands[0]]
    if instruction is None or instruction.opcode != "constant":
        return None
    match = re.match(r"-?\d+(?=\))", instruction.text)
    return int(match[0]) if match else None
