"""Which prompts are run next: several short ones at once, a long one chunk by chunk."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Sequence

import jax

from medusa_jax.decoding.buckets import group_size, prompt_width
from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.engine.chunks import CHUNK, Chunks
from medusa_jax.decoding.prefill import choose_first
from medusa_jax.decoding.runtime import Clock, Runtime
from medusa_jax.decoding.state import Prefilled, Request

_LOOK_AHEAD = 64  # prompts


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """An answer to make.

    Attributes:
      index: of the prompt.
      sample: which of its answers, counted from 0; those of a prompt come one after the other.
      ids: the prompt.
      budget: new tokens that it may get, at least 1.
      is_shared: the prompt gets several answers, and is run once.
      cache: of one row, which holds the first `kept` tokens of the prompt; None: nothing is held.
      kept: fewer than the prompt has.
    """

    index: int
    sample: int
    ids: Sequence[int]
    budget: int
    is_shared: bool = False
    cache: KVCache | None = None
    kept: int = 0

    @property
    def bound(self) -> int:
        """The length that the row may reach, prompt and answer together."""
        return len(self.ids) + self.budget


# What tickets ask for, on the host.
MakeRequest = Callable[[Sequence[Ticket]], Request]


@dataclasses.dataclass(frozen=True)
class Admitted:
    """Prompts that have been run.

    Attributes:
      tickets: theirs.
      rows: one for each.
      seconds: that running them took.
      compiled_before: the clock's seconds of compiling before they were run.
    """

    tickets: list[Ticket]
    rows: Prefilled
    seconds: float
    compiled_before: float


class Admission:
    """Runs the prompts of a queue in the order of their turns.

    Attributes:
      waiting: tickets whose prompts have not been run, or not to the end.
      in_chunks: the first of them has been run in part.
    """

    def __init__(self, runtime: Runtime, clock: Clock, make_request: MakeRequest):
        """Begins with an empty queue.

        Args:
          runtime: of the model.
          clock: counts what is spent.
          make_request: see `MakeRequest`.
        """
        self._runtime, self._clock, self._make_request = runtime, clock, make_request
        self._chunks: Chunks | None = None
        self._before = Clock()
        self._shared: Prefilled | None = None
        self.waiting: deque[Ticket] = deque()

    @property
    def in_chunks(self) -> bool:
        """See the class."""
        return self._chunks is not None

    def next(self, free: int) -> Admitted | None:
        """Runs the next prompts, `free` at most; None: a part of the next one."""
        if not self.in_chunks:
            self._before = dataclasses.replace(self._clock)
        with self._clock.measure("prefill"):
            tickets = self._group(free)
            rows = self._run(tickets)
            jax.block_until_ready(rows and rows.root_B)
        if rows is None:
            return None
        for _ in tickets:
            self.waiting.popleft()
        self._shared = rows if tickets[0].is_shared else None
        seconds = self._clock.prefill - self._before.prefill
        return Admitted(tickets, rows, seconds, self._before.compile)

    def _group(self, free: int) -> list[Ticket]:
        """The next tickets that are run in one call: as many as make a power of two."""
        group, longest = [], 0
        for ticket in self.waiting:
            longest = max(longest, len(ticket.ids))
            fits = (len(group) + 1) * prompt_width(longest) <= CHUNK
            if group and (_is_alone(ticket) or _is_alone(group[0]) or not fits):
                break
            group.append(ticket)
        return group[: group_size(min(len(group), free))]

    def sizes(self, free: int) -> set[tuple[int, int]]:
        """How many of the next prompts may be run at once in `free` rows, and how wide."""
        sizes = set()
        for ticket in itertools.islice(self.waiting, _LOOK_AHEAD):
            if ticket.cache is None and len(ticket.ids) <= CHUNK:
                width = prompt_width(len(ticket.ids))
                most = 1 if _is_alone(ticket) else min(free, len(self.waiting), CHUNK // width)
                powers = range(group_size(max(most, 1)).bit_length())
                sizes |= {(1 << power, width) for power in powers}
        return sizes

    def _run(self, tickets: list[Ticket]) -> Prefilled | None:
        first, request = tickets[0], self._make_request(tickets)
        if first.sample and self._shared is not None:
            rows = self._shared
            arrays = (self._runtime.put(request), rows.cache, rows.hidden_BD)
            return self._runtime.without_drafter().run(self._clock, choose_first, *arrays)
        if first.cache is None and len(first.ids) <= CHUNK:
            return self._runtime.prefill(self._clock, request, [t.ids for t in tickets])
        if self._chunks is None:
            self._chunks = Chunks(self._runtime, self._clock, first.ids, first.cache, first.kept)
        self._chunks.advance()
        if self._chunks.remaining:
            return None
        chunks, self._chunks = self._chunks, None
        return chunks.finish(request)


def _is_alone(ticket: Ticket) -> bool:
    return ticket.is_shared or ticket.cache is not None
