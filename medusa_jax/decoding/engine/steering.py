"""What decides which tree the next call of the engine uses."""

import dataclasses
from typing import Protocol

from medusa_jax.decoding.runtime import Runtime
from medusa_jax.tree.dynamic import AnyTree


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the next call should do.

    Attributes:
      runtime: the one that it uses.
      tree: the one that it verifies, without padding.
      steps: at most so many; None: as many as suits the engine.
    """

    runtime: Runtime
    tree: AnyTree
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Call:
    """What a call did.

    Attributes:
      seconds: how long it took, without compiling.
      steps: how many it took.
      row_steps: steps summed over the rows that were not done.
      tokens: how many all rows emitted.
      compile_seconds: spent on compiling the programs of this call.
      capacity: slots of the cache.
      tree: what it proposed.
    """

    seconds: float
    steps: int
    row_steps: int
    tokens: int
    compile_seconds: float
    capacity: int
    tree: AnyTree


class Steering(Protocol):
    """Decides on the host, between calls."""

    @property
    def depth(self) -> int:
        """Depth of the deepest tree that may be used: the cache keeps room for it."""
        ...

    def plan(self, capacity: int, remaining: float) -> Plan:
        """The next call.

        Args:
          capacity: slots of the cache.
          remaining: tokens per row that are still to come, at most.
        """
        ...

    def observe(self, call: Call) -> None:
        """Learns from the call that followed the last plan."""
        ...


@dataclasses.dataclass(frozen=True)
class OneTree:
    """The same tree throughout.

    Attributes:
      runtime: made for the tree.
      tree: the only one.
    """

    runtime: Runtime
    tree: AnyTree

    @property
    def depth(self) -> int:
        """See `Steering.depth`."""
        return self.runtime.decoder.drafter.max_depth

    def plan(self, capacity: int, remaining: float) -> Plan:
        """See `Steering.plan`."""
        del capacity, remaining
        return Plan(self.runtime, self.tree)

    def observe(self, call: Call) -> None:
        """See `Steering.observe`."""
