"""The host's side of prefill: prompts that are run a chunk at a time."""

from collections.abc import Sequence

import jax
import numpy as np

from medusa_jax.decoding import prefill
from medusa_jax.decoding.buckets import cache_slots, prompt_width
from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.runtime import Clock, Runtime, padded
from medusa_jax.decoding.state import Prefilled, Request

# Most tokens that one call runs, of one prompt or of several, so that rows that are being decoded
# do not wait for longer.
CHUNK = 512


class Chunks:
    """A prompt that is run a chunk at a time, perhaps on top of tokens that have been run before.

    Attributes:
      remaining: tokens that are still to be run.
    """

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        ids: Sequence[int],
        cache: KVCache | None = None,
        kept: int = 0,
    ):
        """Makes room.

        Args:
          runtime: of the model.
          clock: counts what is spent on compiling.
          ids: the prompt.
          cache: of one row, which holds the first `kept` tokens; it stays as it is.
          kept: fewer than there are tokens.
        """
        self._with_rule, self._clock = runtime.without_drafter(), clock
        self._runtime = self._with_rule.without_rule()
        self._ids, self._done = ids, kept
        last = (len(ids) - kept - 1) % CHUNK + 1
        capacity = cache_slots(len(ids) - last + prompt_width(last))
        if cache is None:
            self._cache = self._runtime.run(clock, prefill.empty_rows, rows=1, capacity=capacity)
        else:
            length_B = runtime.put(np.asarray([kept], np.int32))
            self._cache = self._runtime.run(
                clock, prefill.keep_rows, cache, length_B, capacity=capacity
            )
        self._hidden_BD: jax.Array | None = None

    @property
    def remaining(self) -> int:
        """See the class."""
        return len(self._ids) - self._done

    def advance(self) -> None:
        """Runs the next chunk."""
        part = self._ids[self._done : self._done + CHUNK]
        numbers = (np.asarray([n], np.int32) for n in (len(part), len(self._ids)))
        arrays = self._runtime.put((padded([part], prompt_width(len(part))), *numbers))
        self._cache, self._hidden_BD = self._runtime.run(
            self._clock, prefill.extend_rows, self._cache, *arrays
        )
        self._done += len(part)

    def finish(self, request: Request) -> Prefilled:
        """The row, after the last chunk."""
        arrays = (self._runtime.put(request), self._cache, self._hidden_BD)
        return self._with_rule.run(self._clock, prefill.choose_first, *arrays)
