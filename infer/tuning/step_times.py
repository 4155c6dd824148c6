"""The time of a decoding step on this machine, for trees, batches and contexts of some sizes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.cli.console import note
from medusa_jax.decoding import step
from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.decoding.runtime import Clock, Runtime, make_request, make_runtime
from medusa_jax.decoding.state import DecodeState
from medusa_jax.errors import is_out_of_memory
from medusa_jax.tuning.prospect import Prospect
from medusa_jax.tuning.times import Point

NODES = (1, 2, 4, 8, 16, 32, 64)
VISITS = 6  # the first of which does not count
_VISIT_SECONDS = 0.2
_MOST_STEPS = 32
_LONG = 1024  # slots
_LONG_NODES = (1, 8)
_LONG_BATCH = 8  # at most: larger ones might not have the memory


def plan(lm: MedusaLM, batches: Sequence[int]) -> list[tuple[int, int, int]]:
    """(batch, nodes, slots) of every point that may be wanted, in the order of measuring."""
    trees = [n for n in NODES if n in _candidates(lm).trees]
    points = [(batch, nodes, cache_slots(1)) for batch in batches for nodes in trees]
    if lm.config.max_position >= _LONG:
        long = {batches[0], *[b for b in batches if b <= _LONG_BATCH][-1:]}
        points += [(b, n, _LONG) for b in sorted(long) for n in _LONG_NODES if n in trees]
    return points


def _candidates(lm: MedusaLM) -> Prospect:
    """Trees of all sizes, whichever have been measured so far."""
    bare = dataclasses.replace(lm.measured, times={})
    return dataclasses.replace(lm, measured=bare).prospect(0.0, 1)


def measure(
    lm: MedusaLM,
    wanted: Sequence[tuple[int, int, int]],
    known: Sequence[Point],
    advance: Callable[[int], None],
) -> Iterator[Point]:
    """Measures points, but for those that are known and those of trees that cannot pay.

    Trees of the same batch and context are timed in turns: ratios decide which one is used, so
    whatever else keeps the machine busy for a while must not slow down only one of them.

    Args:
      lm: the model.
      wanted: see `plan`.
      known: points of an earlier run.
      advance: called with how many of the `VISITS` per wanted point are done.

    Yields:
      Each new point, as soon as all of its batch and context are measured.
    """
    prospect = _candidates(lm)
    groups: dict[tuple[int, int], list[int]] = {}
    for batch, nodes, slots in wanted:
        groups.setdefault((batch, slots), []).append(nodes)
    for (batch, slots), sizes in groups.items():
        seconds = {p.nodes: p.seconds for p in known if (p.batch, p.slots) == (batch, slots)}
        waiting = [nodes for nodes in sizes if nodes not in seconds]
        advance(VISITS * (len(sizes) - len(waiting)))

        def clock_of(nodes: int, batch: int = batch, slots: int = slots) -> StepClock:
            return StepClock(lm, prospect, batch, nodes, slots)

        _measure_group(prospect, clock_of, waiting, seconds, slots, advance)
        yield from (Point(batch, n, slots, seconds[n]) for n in waiting if n in seconds)


def _measure_group(
    prospect: Prospect,
    clock_of: Callable[[int], "StepClock"],
    waiting: Sequence[int],
    seconds: dict[int, float],
    slots: int,
    advance: Callable[[int], None],
) -> None:
    """Adds the seconds of those sizes that may pay and have room, by nodes."""
    has_room = True
    while True:
        clocks: dict[int, StepClock] = {}
        for nodes in waiting:
            if not has_room or nodes in seconds or not _may_pay(prospect, seconds, nodes, slots):
                continue
            clock = clock_of(nodes)
            first = _first_visits(clock)
            has_room = first is not None
            if first is not None:
                clocks[nodes], seconds[nodes] = clock, first
                advance(2)
        for _ in range(VISITS - 2):
            for nodes, clock in clocks.items():
                # What other programs do only adds to a time.
                seconds[nodes] = min(seconds[nodes], clock.visit())
            advance(len(clocks))
        # A disturbed first visit may have ruled out larger trees: they come now.
        if not clocks:
            break
    advance(VISITS * sum(nodes not in seconds for nodes in waiting))


def _first_visits(clock: "StepClock") -> float | None:
    """Seconds of a step; None: the device has no room for it."""
    try:
        clock.visit()  # finds out how many steps fill its time
        return clock.visit()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        note(f"no room for {clock}: left out, and larger trees, too")
        return None


def _may_pay(prospect: Prospect, seconds: Mapping[int, float], nodes: int, slots: int) -> bool:
    """Whether a tree can be the fastest, as steps only get slower with more nodes."""
    tokens = prospect.belief.tokens
    smaller = [n for n in seconds if n < nodes]
    if not smaller or slots == _LONG:
        return True
    best = max(tokens[n] / seconds[n] for n in smaller)
    return max(tokens.values()) / max(seconds[n] for n in smaller) > best


class StepClock:
    """Times steps of one size, whose rows are in the middle of a text that never ends."""

    def __init__(self, lm: MedusaLM, prospect: Prospect, batch: int, nodes: int, slots: int):
        """Compiles nothing yet.

        Args:
          lm: the model.
          prospect: the model's trees.
          batch: rows.
          nodes: those of the tree to time, which is one of them.
          slots: of the cache.
        """
        self._runtime = make_runtime(lm, prospect.trees[nodes])
        self._batch, self._nodes, self._slots = batch, nodes, slots
        depth = max(tree.max_depth for tree in prospect.trees.values())
        # As many steps as fit, even if each accepts a whole path.
        self._most = min(_MOST_STEPS, slots // 2 // (depth + 1))
        self._steps = 1

    def __str__(self) -> str:
        return f"{self._batch} rows of {self._slots} tokens and trees of {self._nodes} nodes"

    def visit(self) -> float:
        """Seconds of a step; from the second visit on, over as many steps as fill some time.

        The cache is made anew each time, so that sizes that take turns need room for only one.
        """
        runtime, clock = self._runtime, Clock()
        request = runtime.put(make_request([self._slots] * self._batch))
        state = runtime.run(clock, step.idle, request, capacity=self._slots)
        state = _rewound(state, self._slots)
        state = _rewound(_advance(runtime, clock, state, 1), self._slots)
        before = clock.decode
        _advance(runtime, clock, state, self._steps)
        seconds = (clock.decode - before) / self._steps
        self._steps = max(1, min(self._most, int(_VISIT_SECONDS / seconds)))
        return seconds


def _rewound(state: DecodeState, slots: int) -> DecodeState:
    """The same batch with all rows decoding, half of their slots in use and nothing emitted."""
    batch = state.done_B.shape[0]
    return dataclasses.replace(
        state,
        cache=dataclasses.replace(
            state.cache,
            length_B=_like(jnp.full((batch,), slots // 2, jnp.int32), state.cache.length_B),
        ),
        num_new_B=_like(jnp.zeros((batch,), jnp.int32), state.num_new_B),
        done_B=_like(jnp.zeros((batch,), bool), state.done_B),
    )


def _like(x: jax.Array, other: jax.Array) -> jax.Array:
    return jax.device_put(x, other.sharding)


def _advance(runtime: Runtime, clock: Clock, state: DecodeState, steps: int) -> DecodeState:
    batch = state.done_B.shape[0]
    bounds: Any = (np.zeros((batch,), bool), np.int32(steps), np.int32(batch - 1))
    with clock.measure("decode"):
        state, progress = runtime.run(clock, step.decode, state, *runtime.put(bounds))
        taken = int(jax.block_until_ready(progress.steps))
    assert taken == steps  # or the times would be of something else
    return state
