"""Step time and memory bandwidth of random models: autoregressive, and trees of growing size.

What heads with random weights propose is never right, so acceptance is drawn at the rates that
`--tree=auto` assumes for heads that it knows nothing about: the loop writes, counts and advances as
it would in real use.
"""

import dataclasses
import itertools
import statistics
from typing import Any

import jax
import numpy as np

from infer import display
from infer.bench.random_models import NUM_HEADS, random_lm
from infer.bench.simulated import simulated
from infer.bench.step_bytes import cache_bytes, parameter_bytes, read_cache_bytes, total_bytes
from infer.bench.timing import Budget, copy_bandwidth, device_memory
from infer.bench.trees import shape_trees
from medusa_jax import MedusaLM
from medusa_jax.decoding import step
from medusa_jax.decoding.buckets import prompt_width
from medusa_jax.decoding.runtime import Batch, Clock, Runtime, make_request, make_runtime
from medusa_jax.decoding.state import Prefilled
from medusa_jax.mesh import parse_mesh
from medusa_jax.tree.dynamic import AnyTree, heads_used
from medusa_jax.tuning.measured import assumed_acceptance

STEPS = 64
# Slots beyond the prompt: room for STEPS steps that accept a whole path of five heads each.
ROOM = 512


@dataclasses.dataclass(frozen=True)
class ShapeJob:
    """What to measure.

    Attributes:
      shape: a key of `medusa_jax.model_shapes.SHAPES`.
      trees: as the user wrote them; None: sizes from 8 to 128.
      dtypes: "float32", "bfloat16", "float16".
      heads: "shared" (format C) or "own" (format A).
      rounds: repetitions, of which the median counts.
      batch_sizes: rows that are decoded at the same time.
      contexts: tokens of each row's prompt.
      mesh: devices to decode on, see `medusa_jax.load`; None: one.
      quantize: "none" or "int8".
      minutes: after which nothing is begun; None: no limit.
    """

    shape: str
    trees: list[str] | None
    dtypes: list[str]
    heads: str
    rounds: int
    batch_sizes: tuple[int, ...] = (1,)
    contexts: tuple[int, ...] = (512,)
    mesh: str | None = None
    quantize: str = "none"
    minutes: float | None = None


def measure_shape(job: ShapeJob) -> dict[str, Any]:
    """Runs the job.

    Returns:
      JSON values: "settings", "copy" (see `copy_bandwidth`), "rows" (one per tree, batch size,
      context and dtype) and "notes" (what was left out).

    Raises:
      UserError: a tree needs more heads than there are, or the mesh does not fit.
    """
    trees = shape_trees(job.trees, NUM_HEADS)
    mesh = None if job.mesh is None else parse_mesh(job.mesh)
    budget = Budget(job.minutes)
    copy = copy_bandwidth(job.rounds)
    devices = 1 if mesh is None else mesh.size
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for dtype in job.dtypes:
        lm = random_lm(job.shape, dtype, job.heads == "own", mesh, job.quantize)
        for context, batch in itertools.product(job.contexts, job.batch_sizes):
            missing = _missing_memory(lm, context, batch, devices)
            if missing is None and not budget.allows_another():
                missing = f"{job.minutes:g} minutes would not be enough"
            if missing is None:
                with budget.spend():
                    own = _measure(lm, job, trees, context, batch)
                rows += [row | _bandwidth(row, devices * copy["bytes_per_second"]) for row in own]
            else:
                notes.append(f"{dtype}, {batch} rows of {context} tokens were left out: {missing}")
    settings = dataclasses.asdict(job) | {"steps": STEPS, "slots_beyond_prompt": ROOM}
    return {"settings": settings, "copy": copy, "rows": rows, "notes": notes}


def _slots(context: int) -> int:
    """Of the cache that is timed: a prompt is padded to its bucket."""
    return prompt_width(context) + ROOM


def _missing_memory(lm: MedusaLM, context: int, batch: int, devices: int) -> str | None:
    """In words, how a batch needs more than there is; None: it fits."""
    weights = total_bytes((lm.params, lm.heads_params))
    needed, there = weights + cache_bytes(lm, _slots(context), batch), devices * device_memory()
    if needed < 0.9 * there:
        return None
    return f"weights and cache take {needed / 1e9:.1f} GB of {there / 1e9:.1f}"


def _measure(
    lm: MedusaLM, job: ShapeJob, trees: dict[str, AnyTree], context: int, batch: int
) -> list[dict[str, Any]]:
    """The rows of one batch size and context."""
    variants = [lm, *(lm.with_tree(tree) for tree in trees.values())]
    rates = assumed_acceptance(NUM_HEADS)
    runtimes = [make_runtime(variant, rule=simulated(variant.tree, rates)) for variant in variants]
    seconds: list[list[float]] = [[] for _ in variants]
    gained = [0.0] * len(variants)
    prefill: list[float] = []
    with display.progress_bar() as bar:
        name = f"{job.shape} {lm.dtype}, {batch} x {context}"
        task = bar.add_task(name, total=(job.rounds + 1) * len(variants))
        for number in range(job.rounds + 1):
            prompt, taken = _prefilled(runtimes[0], context)
            prefill.append(taken)
            for i, runtime in enumerate(runtimes):
                taken, gained[i] = _per_step(runtime, prompt, batch, STEPS if number else 2)
                seconds[i].append(taken)
                bar.update(task, advance=1, refresh=True)
    timed = [own[1:] for own in seconds]  # the first round warmed up
    rows = [
        _row(variant, own, timed[0], tokens, context, batch)
        for variant, own, tokens in zip(variants, timed, gained, strict=True)
    ]
    prefill_ms = 1e3 * statistics.median(prefill[1:])
    return [
        {"decoder": "medusa" if name else "autoregressive", "tree": name, "prefill_ms": prefill_ms}
        | row
        for name, row in zip([None, *trees], rows, strict=True)
    ]


def _prefilled(runtime: Runtime, context: int) -> tuple[Prefilled, float]:
    """One prompt that has been run, and the seconds that it took."""
    prompt = np.arange(context) % runtime.decoder.model.vocab_size
    clock = Clock()
    with clock.measure("prefill"):
        row = runtime.prefill(clock, make_request([ROOM]), [prompt.tolist()])
        jax.block_until_ready(row)
    return row, clock.prefill


def _per_step(runtime: Runtime, prompt: Prefilled, batch: int, steps: int) -> tuple[float, float]:
    """Seconds of a step, and tokens that it gives a row, where all rows have this prompt."""
    clock, capacity = Clock(), prompt.cache.capacity + ROOM
    request = runtime.put(make_request([ROOM] * batch))
    state = runtime.run(clock, step.idle, request, capacity=capacity)
    for slot in range(batch):
        slot_B = runtime.put(np.asarray([slot], np.int32))
        # Each row has its own number, so that it draws for itself what it accepts.
        own = runtime.put(make_request([ROOM], numbers=[slot]))
        row = dataclasses.replace(prompt, request=own)
        state = runtime.run(clock, step.insert, state, row, slot_B)
    done = runtime.advance(Batch(jax.block_until_ready(state), Clock()), max_steps=steps)
    steps_B, tokens_B = np.asarray(done.state.num_steps_B), np.asarray(done.state.num_new_B)
    return done.clock.decode / int(steps_B[0]), float(tokens_B.sum() / steps_B.sum())


def _row(
    lm: MedusaLM,
    seconds: list[float],
    autoregressive: list[float],
    tokens_per_step: float,
    context: int,
    batch: int,
) -> dict[str, Any]:
    tokens = context + STEPS * tokens_per_step / 2  # in the middle of what is timed
    overheads = [a / b for a, b in zip(seconds, autoregressive, strict=True)]
    return {
        "nodes": lm.tree.R,
        "heads_used": heads_used(lm.tree, NUM_HEADS),
        "dtype": lm.dtype,
        "batch_size": batch,
        "context": context,
        "step_ms": 1e3 * statistics.median(seconds),
        "step_overhead": statistics.median(overheads),
        "tokens_per_step": tokens_per_step,
        "tokens_per_second": batch * tokens_per_step / statistics.median(seconds),
        "parameter_bytes": parameter_bytes(lm),
        "cache_bytes": cache_bytes(lm, _slots(context), batch),
        "cache_bytes_read": read_cache_bytes(lm, _slots(context), batch, tokens),
        "rounds_step_ms": [1e3 * s for s in seconds],
    }


def _bandwidth(row: dict[str, Any], copy: float) -> dict[str, Any]:
    reached = (row["parameter_bytes"] + row["cache_bytes_read"]) / (row["step_ms"] / 1e3)
    return {"bytes_per_second": reached, "copy_fraction": reached / copy}
