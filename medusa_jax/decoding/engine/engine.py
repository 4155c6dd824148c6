"""Rows of a batch that are refilled from a queue while the others decode.

The compiled loop (`step.decode`) returns when a row has ended while prompts wait, when a row has
filled the cache, or after some steps. The host then reads what is new, runs the prompts that take
the place of those that ended, starts the next call, and only then hands out what it has read: texts
are made while the device works.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from medusa_jax.decoding import step
from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.decoding.engine.admission import Admission, Admitted, MakeRequest, Ticket
from medusa_jax.decoding.engine.rows import Flight, Row, when_ready
from medusa_jax.decoding.engine.steering import Call, Steering
from medusa_jax.decoding.engine.warming import Warmer
from medusa_jax.decoding.runtime import Clock, Runtime
from medusa_jax.decoding.state import DecodeState, Progress, Request
from medusa_jax.decoding.updates import Token, Update, emitted, next_root, roots
from medusa_jax.tree.dynamic import AnyTree

# Ctrl-C waits for the call in flight, and a call costs a few milliseconds.
_FIRST_STEPS = 4
_CALL_SECONDS = 0.5
_SHARED_STEPS = 32  # clocks differ between processes, calls must not
# Steps that other rows take between two chunks of a prompt.
_STEPS_PER_CHUNK = 8
# Many rows are refilled several at a time, since running a prompt reads all weights.
_ROWS_PER_REFILL = 16
# The cache has room for this many more tokens of every row, or for all that the row may get.
_ROOM = 256


class Engine:
    """Decodes a queue of prompts in a batch of some rows.

    Attributes:
      clock: what was spent in all.
      state: of the batch; every call consumes it.
    """

    def __init__(
        self,
        runtime: Runtime,
        idle: Request,
        make_request: MakeRequest,
        *,
        clock: Clock,
        steering: Steering,
        most_steps: int | None = None,
        warmer: Warmer | None = None,
    ):
        """Prepares an empty batch.

        Args:
          runtime: of the model.
          idle: with as many rows as the batch, on the host; its EOS ids hold for all rows.
          make_request: what tickets ask for.
          clock: counts what is spent in all.
          steering: chooses the tree of every call.
          most_steps: of one call; None: as many as take half a second.
          warmer: None: programs are compiled when they are needed.
        """
        self.clock = clock
        self.state: DecodeState | None = None
        self._runtime, self._idle, self._most_steps = runtime, idle, most_steps
        self._steering, self._warmer = steering, warmer
        self._waiter = ThreadPoolExecutor(max_workers=1)
        self._admission = Admission(runtime, self.clock, make_request)
        self._eos = set(np.asarray(idle.eos_BE).ravel().tolist())
        self._rows: list[Row | None] = [None] * len(np.asarray(idle.budget_B))
        self._halted: list[int] = []
        self._steps = _SHARED_STEPS if runtime.is_shared else _FIRST_STEPS

    def run(self, tickets: Sequence[Ticket]) -> Iterator[Update]:
        """Makes answers, in the order of their turns.

        Yields:
          What a call has added, while the next one runs.
        """
        self._admission.waiting.extend(tickets)
        with contextlib.closing(self._warmer) if self._warmer else contextlib.nullcontext():
            yield from self._run()

    def _run(self) -> Iterator[Update]:
        updates: list[Update] = []
        while self._admission.waiting or any(self._rows):
            admitted = self._admit()
            updates += admitted
            if admitted and self._most_steps == 1:
                # A stream shows its first token before the steps are compiled, or run: a GPU's loop
                # runs while it is dispatched.
                yield from updates
                updates = []
            flight = self._dispatch() if any(self._rows) else None
            yield from updates
            updates = [] if flight is None else self._collect(flight)
        yield from updates

    def halt(self, ticket: Ticket) -> None:
        """Ends an answer early: there are no more updates for it."""
        for slot, row in enumerate(self._rows):
            if row is not None and row.ticket is ticket:
                self._rows[slot] = None
                self._halted.append(slot)

    def _admit(self) -> list[Update]:
        """Fills free rows; the chunks of a long prompt take turns with the steps of others."""
        updates: list[Update] = []
        while self._admission.waiting and (free := self._rows.count(None)):
            admitted = self._admission.next(free)
            if admitted is not None:
                updates += self._insert(admitted)
            elif any(self._rows):
                break
        return updates

    def _insert(self, admitted: Admitted) -> list[Update]:
        tickets, begin = admitted.tickets, self.clock.prefill + self.clock.decode
        free = [slot for slot, row in enumerate(self._rows) if row is None][: len(tickets)]
        for slot, ticket in zip(free, tickets, strict=True):
            before = (admitted.seconds, admitted.compiled_before, begin)
            self._rows[slot] = Row(ticket, *before)
        self._halted = [slot for slot in self._halted if slot not in free]
        self._make_room(admitted.rows.cache.capacity)
        slot_B = self._runtime.put(np.asarray(free, np.int32))
        self.state = self._runtime.run(self.clock, step.insert, self.state, admitted.rows, slot_B)
        root_B, logprob_B = jax.device_get((admitted.rows.root_B, admitted.rows.logprob_B))
        first = roots(root_B, np.zeros_like(root_B), logprob_B)
        return [self._update(slot, [root]) for slot, root in zip(free, first, strict=True)]

    def _make_room(self, least: int = 0) -> None:
        """Makes the cache large enough for the next step of every row, and some more."""
        rows = [row for row in self._rows if row is not None]
        longest = max(min(row.bound, row.length + _ROOM) for row in rows)
        capacity = max(cache_slots(longest, self._steering.depth), least)
        if self.state is None:
            self._runtime = self._steering.plan(capacity, self._remaining()).runtime
            idle = self._runtime.put(self._idle)
            self.state = self._runtime.run(self.clock, step.idle, idle, capacity=capacity)
            return
        now = self.state.cache.capacity
        is_full = any(row.length + 1 + self._steering.depth > now for row in rows)
        if is_full or now < least:
            capacity = self._larger_capacity(now) if is_full else capacity
            self.state = self._runtime.run(
                self.clock, step.grow, self.state, capacity=max(capacity, least)
            )

    def _larger_capacity(self, now: int) -> int:
        """The next capacity of a cache whose `now` slots are full: the same wherever rows end."""
        most = max(row.bound for row in self._rows if row is not None)
        return cache_slots(min(most, now + _ROOM), self._steering.depth)

    def _dispatch(self) -> Flight:
        """Starts some steps."""
        self._make_room()
        assert self.state is not None
        plan = self._steering.plan(self.state.cache.capacity, self._remaining())
        compiled_before = self.clock.compile
        if plan.runtime is not self._runtime:
            self._runtime = plan.runtime
            self.state = self._runtime.run(self.clock, step.switch, self.state)
        steps, most_done = self._most_steps or self._steps, len(self._rows) - 1
        steps = min(steps, plan.steps or steps)
        if self._admission.in_chunks:
            steps = min(steps, _STEPS_PER_CHUNK)
        elif self._admission.waiting:
            most_done = min(most_done, self._rows.count(None) + len(self._rows) // _ROWS_PER_REFILL)
        halted_B = np.zeros((len(self._rows),), bool)
        halted_B[self._halted] = True
        self._halted = []
        bounds = self._runtime.put((halted_B, np.int32(steps), np.int32(most_done)))
        # Before the call: open-ended loops of GPUs run while they are dispatched.
        began = time.perf_counter() - self.clock.compile
        self.state, progress = self._runtime.run(self.clock, step.decode, self.state, *bounds)
        began += self.clock.compile
        compiled = self.clock.compile - compiled_before
        landed = self._waiter.submit(when_ready, progress)
        flight = Flight(progress, plan.tree, compiled, began, landed)
        if self._warmer and self._admission.waiting:
            self._look_ahead(self._warmer, bounds)
        return flight

    def _look_ahead(self, warmer: Warmer, bounds: Any) -> None:
        """Asks the warmer for the programs that this queue will want next."""
        assert self.state is not None
        capacity = self._larger_capacity(self.state.cache.capacity)
        warmer.larger_cache(self._runtime, self.state, bounds, capacity)
        sizes = self._admission.sizes(1 + len(self._rows) // _ROWS_PER_REFILL)
        warmer.prompts(self._runtime, self.state, sizes)

    def _remaining(self) -> float:
        """Tokens per row that are still to come, if no answer ends early."""
        begun = sum(row.bound - row.length for row in self._rows if row is not None)
        waiting = sum(ticket.budget for ticket in self._admission.waiting)
        return (begun + waiting) / len(self._rows)

    def _observe(self, seconds: float, flight: Flight, progress: Progress) -> None:
        """Tells the steering what a call did; to be called before the rows are updated."""
        rows = [(slot, row) for slot, row in enumerate(self._rows) if row is not None]
        assert self.state is not None
        call = Call(
            seconds=seconds,
            steps=int(progress.steps),
            row_steps=sum(int(progress.num_steps_B[i]) - row.num_steps for i, row in rows),
            tokens=sum(int(progress.num_new_B[i]) - row.num_new for i, row in rows),
            compile_seconds=flight.compile_seconds,
            capacity=self.state.cache.capacity,
            tree=flight.tree,
        )
        self.clock.tokens += call.tokens
        self.clock.row_steps += call.row_steps
        self._steering.observe(call)

    def _collect(self, flight: Flight) -> list[Update]:
        """Waits for the steps, and frees the rows that have ended."""
        seconds = flight.landed.result() - flight.began
        p = jax.device_get(flight.progress)
        self.clock.decode += seconds
        if p.steps and not self._runtime.is_shared:
            self._steps = max(1, int(p.steps * _CALL_SECONDS / seconds))
        self._observe(seconds, flight, p)
        updates = []
        for slot, row in enumerate(self._rows):
            if row is None:
                continue
            row.num_new, row.num_steps = int(p.num_new_B[slot]), int(p.num_steps_B[slot])
            tokens = emitted(p, slot, row.seen)
            done, stopped = bool(p.done_B[slot]), bool(p.stopped_B[slot])
            if not done and row.seen <= row.num_new:
                tokens.append(next_root(p, slot))
            updates.append(self._update(slot, tokens, flight.tree, done, stopped))
        return updates

    def _update(
        self,
        slot: int,
        tokens: list[Token],
        tree: AnyTree | None = None,
        done: bool = False,
        stopped: bool = False,
    ) -> Update:
        """Hands out tokens, the next root last while a row is not done, and frees a row that is."""
        row = self._rows[slot]
        assert row is not None
        if done:
            self._rows[slot] = None
        elif tokens and tokens[-1].id in self._eos:
            tokens = tokens[:-1]
        row.seen += len(tokens)
        return Update(
            ticket=row.ticket,
            tokens=tokens,
            num_steps=row.num_steps,
            tree=tree,
            done=done,
            stopped=stopped,
            prefill_seconds=row.prefill_seconds,
            decode_seconds=self.clock.prefill + self.clock.decode - row.begin,
            compile_seconds=self.clock.compile - row.compiled_before,
        )
