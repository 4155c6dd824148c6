"""Compiles for devices that are not there: a program's text and memory, or why it does not fit."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from medusa_jax.errors import is_out_of_memory
from medusa_jax.plan.topology import Topology, compiling

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# "... memory required for HLO temporaries (18.00G) exceeds available HBM (15.75G)": arguments too.
_USED = re.compile(r"required[^()]*\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of")
_MOST_LINES = 12
_SHOWN = 5_000_000  # bytes; less is 0.00 GB


@dataclasses.dataclass(frozen=True)
class Built:
    """What a compiler made of a program, per device.

    Attributes:
      seconds: that lowering and compiling took on this machine.
      text: the optimized program; None: it does not fit.
      argument_bytes: of its arguments; None: not known.
      temp_bytes: of what it keeps while it runs; None: not known.
      total_bytes: arguments + results - results in the arguments' place + temporaries + code.
      sizes: bytes of its arguments, by what they are.
      refusal: the compiler's own words, where it refused.
    """

    seconds: float
    text: str | None
    argument_bytes: int | None
    temp_bytes: int | None
    total_bytes: int | None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    refusal: tuple[str, ...] = ()

    def fits(self, topology: Topology) -> bool:
        """Whether the program runs in the memory of each device."""
        if self.text is None or self.total_bytes is None:
            return False
        return self.total_bytes <= topology.hbm_bytes

    def takes_space(self, topology: Topology) -> tuple[str, ...]:
        """Where it does not fit: the compiler's words, and what takes how much, largest first."""
        if self.fits(topology):
            return ()
        sizes = dict(self.sizes)
        if self.temp_bytes is not None:
            sizes["temporaries"] = self.temp_bytes
            if self.total_bytes is not None and self.argument_bytes is not None:
                rest = self.total_bytes - self.argument_bytes - self.temp_bytes
                sizes["results and code"] = rest
        largest = sorted(sizes.items(), key=lambda item: -item[1])
        lines = (f"{name}: {size / 1e9:.2f} GB" for name, size in largest if size >= _SHOWN)
        return (*self.refusal, *lines)


def build(topology: Topology, compiled: Callable[[], Any], arguments: Mapping[str, Any]) -> Built:
    """Compiles for a topology.

    Args:
      topology: to compile for.
      compiled: makes the `jax.stages.Compiled`.
      arguments: abstract arrays with their shardings, by names for people: to say how large they
        are where they do not fit.
    """
    begin = time.perf_counter()
    try:
        with compiling(topology):
            program = compiled()
            text, memory = program.as_text(), program.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return _refused(time.perf_counter() - begin, str(error), sizes_of(arguments))
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes
    total += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return Built(
        seconds=time.perf_counter() - begin,
        text=text,
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        total_bytes=total - memory.alias_size_in_bytes,
        sizes=sizes_of(arguments),
    )


def _refused(seconds: float, message: str, sizes: dict[str, int]) -> Built:
    used = _USED.search(message)
    total = None
    if used is not None:
        number, unit = used.groups()[:2] if used[1] else used.groups()[2:]
        total = round(float(number) * _UNITS[unit])
    said = [" ".join(line.split()) for line in message.splitlines()]
    said = [line for line in said if line and not line.startswith("See ")]
    argument_bytes, refusal = sum(sizes.values()), tuple(said[:_MOST_LINES])
    return Built(seconds, None, argument_bytes, None, total, sizes, refusal)


def sizes_of(arguments: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of one device's part of abstract arrays, by what they are."""
    return {name: sum(map(local_bytes, jax.tree.leaves(tree))) for name, tree in arguments.items()}


def local_bytes(array: Any) -> int:
    """Bytes of the part of an abstract array that one device holds; four bits are half a byte."""
    shape = array.shape if array.sharding is None else array.sharding.shard_shape(array.shape)
    return -(-math.prod(shape) * jax.dtypes.itemsize_bits(array.dtype) // 8)
