"""The time of a decoding step on this machine, for trees, batches and contexts of some sizes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.decoding import step
from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.decoding.runtime import Clock, Runtime, make_request, make_runtime
from medusa_jax.decoding.state import DecodeState
from medusa_jax.tuning.choose import PLAIN
from medusa_jax.tuning.prospect import Prospect
from medusa_jax.tuning.times import Point

NODES = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS = 5
_ROUND_SECONDS = 0.2
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
    advance: Callable[[], None],
) -> Iterator[Point]:
    """Measures points, but for those that are known and those of trees that cannot pay.

    Args:
      lm: the model.
      wanted: see `plan`.
      known: of an earlier run.
      advance: called for every wanted point.

    Yields:
      Each new point, as soon as it is measured.
    """
    prospect = _candidates(lm)
    points = list(known)
    for batch, nodes, slots in wanted:
        is_known = any((p.batch, p.nodes, p.slots) == (batch, nodes, slots) for p in points)
        if not is_known and _may_pay(prospect, points, batch, nodes, slots):
            point = Point(batch, nodes, slots, seconds_per_step(lm, prospect, batch, nodes, slots))
            points.append(point)
            yield point
        advance()


def _may_pay(
    prospect: Prospect, points: Sequence[Point], batch: int, nodes: int, slots: int
) -> bool:
    """Whether a tree can be the fastest, as steps only get slower with more nodes."""
    tokens = prospect.belief.tokens
    own = [p for p in points if (p.batch, p.slots) == (batch, slots) and p.nodes < nodes]
    if not own or slots == _LONG:
        return True
    best = max(tokens[p.nodes] / p.seconds for p in own)
    return max(tokens.values()) / max(p.seconds for p in own) > best


def seconds_per_step(lm: MedusaLM, prospect: Prospect, batch: int, nodes: int, slots: int) -> float:
    """The fastest of some rounds. Rows are in the middle of a text that never ends."""
    depth = max(tree.max_depth for tree in prospect.trees.values())
    tree = prospect.trees[nodes if nodes in prospect.trees else PLAIN]
    runtime, clock = make_runtime(lm, tree), Clock()
    state = _idle(runtime, clock, batch, slots)
    state = _advance(runtime, clock, _rewound(state, slots), 1)
    # As many steps as fit, even if each accepts a whole path.
    most, seconds, steps = min(_MOST_STEPS, slots // 2 // (depth + 1)), [], 1
    for _ in range(_ROUNDS + 1):
        before = clock.decode
        state = _advance(runtime, clock, _rewound(state, slots), steps)
        seconds.append((clock.decode - before) / steps)
        steps = max(1, min(most, int(_ROUND_SECONDS / seconds[-1])))
    # The first found out how many steps fill a round. What other programs do only adds to a time:
    # they spoilt the median of three once, and a tree of two nodes seemed to cost more than four.
    return min(seconds[1:])


def _idle(runtime: Runtime, clock: Clock, batch: int, slots: int) -> DecodeState:
    """A batch that decodes nothing yet, with drafts whose nodes see themselves."""
    request = runtime.put(make_request([slots] * batch))
    state: DecodeState = runtime.run(clock, step.idle, request, capacity=slots)
    nodes = state.draft.mask_BRR.shape[-1]
    mask_BRR = jnp.broadcast_to(jnp.eye(nodes, dtype=bool), state.draft.mask_BRR.shape)
    return dataclasses.replace(
        state,
        draft=dataclasses.replace(state.draft, mask_BRR=_like(mask_BRR, state.draft.mask_BRR)),
    )


def _rewound(state: DecodeState, slots: int) -> DecodeState:
    """The same with all rows decoding, half of their slots in use and nothing emitted."""
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
