"""Programs that a queue will want, compiled by a thread while the device decodes.

When rows outgrow their cache or prompts of other widths come, all rows would have to wait for the
compiler.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from medusa_jax.decoding import prefill, step
from medusa_jax.decoding.programs import abstract, results
from medusa_jax.decoding.runtime import Runtime
from medusa_jax.decoding.state import DecodeState, Request


class Warmer:
    """Compiles each program once, in the order in which it was asked for.

    Whatever fails is left to whoever needs the program, who compiles it again and reports it.
    """

    def __init__(self, idle: Request) -> None:
        """Begins with nothing.

        Args:
          idle: for as many rows as the batch has, on the host.
        """
        self._idle = idle
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._asked: set[Any] = set()

    def larger_cache(
        self, runtime: Runtime, state: DecodeState, bounds: Any, capacity: int
    ) -> None:
        """Steps with a cache of `capacity` slots, and what moves the rows there.

        Args:
          runtime: of the batch.
          state: of the batch.
          bounds: the other arguments of `step.decode`, on the devices.
          capacity: if no larger than the cache's, there is nothing to do.
        """
        now = state.cache.capacity
        if capacity > now and self._is_new(runtime, now, capacity):
            self._thread.submit(_grown, runtime, abstract(state), abstract(bounds), capacity)

    def prompts(
        self, runtime: Runtime, state: DecodeState, sizes: Iterable[tuple[int, int]]
    ) -> None:
        """Running prompts, and their way into the batch.

        Args:
          runtime: of the batch.
          state: of the batch.
          sizes: how many are run at once, and their padded width. For those wider than the cache
            only the run is compiled: how far the cache will grow depends on the rows by then.
        """
        for rows, width in sizes:
            if self._is_new(runtime, state.cache.capacity, rows, width):
                arrays = abstract(runtime.put(self._arguments(rows, width)))
                self._thread.submit(_inserted, runtime, abstract(state), *arrays)

    def close(self) -> None:
        """Gives up what has not been begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _arguments(self, rows: int, width: int) -> tuple[Any, ...]:
        """Those of `prefill.prefill_rows`, and the rows that the prompts get."""
        request = jax.tree.map(lambda x: x[:rows], self._idle)
        number_B = np.zeros((rows,), np.int32)
        return request, np.zeros((rows, width), np.int32), number_B, number_B

    def _is_new(self, *key: Any) -> bool:
        is_new = key not in self._asked
        self._asked.add(key)
        return is_new


def _inserted(runtime: Runtime, state: Any, *arrays: Any) -> None:
    *prompts, slot_B = arrays
    run, _ = runtime.without_drafter().program(prefill.prefill_rows, *prompts)
    rows = results(run)
    if rows.cache.capacity <= state.cache.capacity:
        runtime.program(step.insert, state, rows, slot_B)


def _grown(runtime: Runtime, state: Any, bounds: Any, capacity: int) -> None:
    grow, _ = runtime.program(step.grow, state, capacity=capacity)
    runtime.program(step.decode, results(grow), *bounds)
