"""Times all sides, taking turns."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from train.bench.job import Job, load, random_batch
from train.bench.ours import OurTrainer
from train.bench.torch_trainer import TorchTrainer, missing_reason
from train.flops import device_memory_bytes

TOLERANCE = 1e-3  # relative, between first losses: all sides must do the same work


def measure(job: Job, advance: Callable[[], None]) -> dict[str, Any]:
    """Runs the job.

    Args:
      job: what to measure.
      advance: called after every round of every side; the first round warms up with one step.

    Returns:
      JSON values: "settings", "rows" (one per side), "device_memory_bytes" (the most that was in
      use, by all our sides; None on a CPU), "same_first_loss" (None: there is one side only) and
      "notes".

    Raises:
      UserError: something is wrong with the model, the devices or the settings.
    """
    lm = load(job)
    batch = random_batch(job, lm.config.vocab_size)
    names = ("streamed", "cached") if job.objective == "medusa1" else ("streamed",)
    sides: list[Any] = [OurTrainer(job, lm, batch, name) for name in names]
    reason = missing_reason(job)
    if reason is None:
        sides.append(TorchTrainer(job, lm, batch))
    losses: list[list[float]] = [[] for _ in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    for round_number in range(job.rounds + 1):
        for side, own_losses, own_seconds in zip(sides, losses, seconds, strict=True):
            steps = job.steps if round_number else 1
            begin = time.perf_counter()
            own_losses += [side.step() for _ in range(steps)]
            if round_number:
                own_seconds.append((time.perf_counter() - begin) / steps)
            advance()
    medians = [statistics.median(own) for own in seconds]
    rows = [_row(job, *row) for row in zip(sides, medians, losses, strict=True)]
    for row in rows:
        row["speedup_vs_torch"] = None if reason else medians[-1] / row["seconds_per_step"]
    first = [own[0] for own in losses]
    return {
        "settings": dataclasses.asdict(job) | {"vocab_size": lm.config.vocab_size},
        "rows": rows,
        "device_memory_bytes": device_memory_bytes(),
        "same_first_loss": _same(first) if len(first) > 1 else None,
        "notes": [] if reason is None else [f"no torch implementation beside ours: {reason}"],
    }


def num_advances(job: Job) -> int:
    """How often `measure` advances, at most."""
    sides = 1 if job.objective == "medusa2" else 2
    return (job.rounds + 1) * (sides + (missing_reason(job) is None))


def _same(losses: list[float]) -> bool:
    return max(losses) - min(losses) <= TOLERANCE * min(map(abs, losses))


def _row(job: Job, side: Any, seconds: float, losses: list[float]) -> dict[str, Any]:
    ours = isinstance(side, OurTrainer)
    flops = side.flops_per_step / seconds if ours else None
    peak = side.peak_flops if ours else None
    return {
        "side": side.name,
        "tokens_per_second": job.tokens / seconds,
        "tokens_per_second_per_device": job.tokens / seconds / (jax.device_count() if ours else 1),
        "seconds_per_step": seconds,
        "flops_per_second": flops,
        "mfu": None if flops is None or peak is None else flops / peak,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
