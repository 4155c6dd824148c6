"""Clocks for what runs on the device, free of dispatch and compilation."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_COPIES = 16
_CAP = {"cpu": 2**28}
_CAP_ELSEWHERE = 2**32


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one iteration (median over rounds), of compiling, and the last carry."""

    seconds: float
    compile_seconds: float
    carry: Any


def time_loop(
    step: Callable[..., Any], carry: Any, operands: tuple[Any, ...], iterations: int, rounds: int
) -> Timing:
    """Times iterations of a loop that runs on the device.

    Args:
      step: (carry, *operands) -> carry of the same shapes; each iteration must need the previous.
      carry: arrays to begin with.
      operands: arrays that stay the same.
      iterations: of the loop in one round.
      rounds: repetitions, after one to warm up.
    """

    def loop(carry: Any, operands: tuple[Any, ...]) -> Any:
        return jax.lax.fori_loop(0, iterations, lambda _, c: step(c, *operands), carry)

    begin = time.perf_counter()
    run = jax.jit(loop).lower(carry, operands).compile()
    compile_seconds = time.perf_counter() - begin
    last, seconds = jax.block_until_ready(run(carry, operands)), []
    for _ in range(rounds):
        begin = time.perf_counter()
        last = jax.block_until_ready(run(carry, operands))
        seconds.append((time.perf_counter() - begin) / iterations)
    return Timing(statistics.median(seconds), compile_seconds, last)


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
