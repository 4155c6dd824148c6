"""Reads the text of an optimized program."""

import math
import re
from collections.abc import Iterator
from typing import Any

from medusa_jax.plan.hlo import Array, Computation, Instruction, Program

_ARRAY = re.compile(r"([a-z]\w*)\[([<=\d,]*)\](\{[^{}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_NAME = re.compile(r"%([\w.\-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([\w\-]+)\(")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")


def parse(text: str) -> Program:
    """Reads what `compiled.as_text()` gives.

    Args:
      text: HLO, of one module.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current: dict[str, Instruction] = {}
    entry = None
    for line in _whole_lines(text):
        match = _LINE.match(line)
        if match:
            instruction = _instruction(match, line)
            current[instruction.name] = instruction
        elif head := _HEAD.match(line):
            current = {}
            computations[head[2]] = Computation(head[2], current)
            entry = head[2] if head[1] else entry
    if entry is None:
        raise ValueError("the text has no entry computation: pass optimized HLO")
    header = text.partition("\n")[0]
    counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
    return Program(computations, entry, math.prod(map(int, counts)))


def _whole_lines(text: str) -> Iterator[str]:
    """Lines; those that a kernel's metadata breaks into pieces are put together again."""
    begun = ""  # an instruction, so far
    for line in text.splitlines():
        is_new = _LINE.match(line) is not None
        if begun and not is_new and begun.count("{") > begun.count("}"):
            begun += line
            continue
        if begun:
            yield begun
        begun = line if is_new else ""
        if not is_new:
            yield line
    if begun:
        yield begun


def _instruction(match: Any, line: str) -> Instruction:
    begin = match.end()
    end = _closing(line, begin) if line[begin] == "(" else line.index(" ", begin)
    opcode = _OPCODE.match(line, end)
    assert opcode is not None, line
    inside = line[opcode.end() : _closing(line, opcode.end() - 1) - 1]
    text = line[opcode.end() :]
    branches = _BRANCHES.search(text)
    return Instruction(
        name=match[2],
        opcode=opcode[1],
        results=tuple(_arrays(line[begin:end])),
        operands=tuple(_NAME.findall(inside)),
        called=dict(_CALLED.findall(text)),
        branches=tuple(name.strip(" %") for name in branches[1].split(",")) if branches else (),
        text=text,
        is_root=bool(match[1]),
    )


def _closing(line: str, begin: int) -> int:
    """The place after the parenthesis that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    return len(line)


def _arrays(text: str) -> list[Array]:
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return found
