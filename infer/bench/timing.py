"""Clocks for what runs on the device, free of dispatch and compilation."""

import contextlib
import os
import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_COPIES = 16
_CAP = {"cpu": 2**28}
_CAP_ELSEWHERE = 2**32


class Budget:
    """Time for measurements: each is taken to last as long as the longest before it."""

    def __init__(self, minutes: float | None) -> None:
        """Begins now; None: there is no limit."""
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._longest = 0.0

    def allows_another(self) -> bool:
        """Whether one more would be done in time; the first is always allowed."""
        if self._end is None or self._longest == 0.0:
            return True
        return time.monotonic() + self._longest < self._end

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Around each measurement."""
        begin = time.monotonic()
        yield
        self._longest = max(self._longest, time.monotonic() - begin)


def copy_bandwidth(rounds: int) -> dict[str, float]:
    """Bandwidth of reading and writing a large array, the yardstick of a memory-bound step.

    Returns:
      "bytes": size of the array; "bytes_per_second": of reading and writing together.
    """
    cap = _CAP.get(jax.default_backend(), _CAP_ELSEWHERE)
    size = min(device_memory() // 8, cap)
    # The number of passes is not constant, so that the loop cannot be folded into one addition.
    run = jax.jit(
        lambda x, n: jax.lax.fori_loop(jnp.int32(0), n, lambda _, x: x + 1, x), donate_argnums=0
    )
    passes = jax.device_put(jnp.int32(_COPIES))
    x = jax.block_until_ready(run(jnp.zeros((size // 4,), jnp.int32), passes))
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        x = jax.block_until_ready(run(x, passes))
        seconds.append(time.perf_counter() - begin)
    return {"bytes": size, "bytes_per_second": 2 * size * _COPIES / statistics.median(seconds)}


def device_memory() -> int:
    """Bytes of the device's memory (a CPU's: of the machine)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
