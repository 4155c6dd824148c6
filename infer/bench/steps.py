"""Step time and memory bandwidth of random models: autoregressive, and trees of growing size."""

import dataclasses
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from infer import display
from infer.bench.experiments import run_experiments
from infer.bench.random_models import NUM_HEADS, random_lm
from infer.bench.timing import copy_bandwidth
from infer.bench.trees import shape_trees
from medusa_jax import MedusaLM
from medusa_jax.decoding.cache import storage_dtype
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.tree.dynamic import AnyTree, heads_used

STEPS = 64
PROMPT = 512
# Room for STEPS steps that accept a whole path of five heads each.
CAPACITY = 1024


@dataclasses.dataclass(frozen=True)
class ShapeJob:
    """What to measure.

    Attributes:
      shape: a key of `medusa_jax.model_shapes.SHAPES`.
      trees: as the user wrote them; None: sizes from 8 to 128.
      dtypes: "float32", "bfloat16".
      heads: "shared" (format C) or "own" (format A).
      rounds: repetitions, of which the median counts.
      experiments: answer the design questions too.
    """

    shape: str
    trees: list[str] | None
    dtypes: list[str]
    heads: str
    rounds: int
    experiments: bool


def measure_shape(job: ShapeJob) -> dict[str, Any]:
    """Runs the job.

    Returns:
      JSON values: "settings", "copy" (see `copy_bandwidth`), "rows" (one per tree and dtype) and,
      when asked for, "experiments" by dtype.

    Raises:
      UserError: a tree needs more heads than there are.
    """
    trees = shape_trees(job.trees, NUM_HEADS)
    copy = copy_bandwidth(job.rounds)
    rows: list[dict[str, Any]] = []
    experiments: dict[str, Any] = {}
    for dtype in job.dtypes:
        lm = random_lm(job.shape, dtype, job.heads == "own")
        rows += _measure(lm, job, trees, copy["bytes_per_second"])
        if job.experiments:
            experiments[dtype] = run_experiments(lm, job.rounds)
    settings = {"steps": STEPS, "prompt_tokens": PROMPT, "cache_slots": CAPACITY}
    report = {"settings": dataclasses.asdict(job) | settings, "copy": copy, "rows": rows}
    return report | ({"experiments": experiments} if job.experiments else {})


def _measure(
    lm: MedusaLM, job: ShapeJob, trees: dict[str, AnyTree], copy: float
) -> list[dict[str, Any]]:
    variants = [lm, *(lm.with_tree(tree) for tree in trees.values())]
    seconds: list[list[float]] = [[] for _ in variants]
    with display.progress_bar() as bar:
        task = bar.add_task(f"{job.shape} {lm.dtype}", total=(job.rounds + 1) * len(variants))
        for number in range(job.rounds + 1):
            for variant, own in zip(variants, seconds, strict=True):
                own.append(_seconds_per_step(variant, STEPS if number else 2))
                bar.advance(task)
    timed = [own[1:] for own in seconds]  # the first round warmed up
    rows = [_row(v, own, timed[0], copy) for v, own in zip(variants, timed, strict=True)]
    return [
        {"decoder": "medusa" if name else "autoregressive", "tree": name} | row
        for name, row in zip([None, *trees], rows, strict=True)
    ]


def _seconds_per_step(lm: MedusaLM, steps: int) -> float:
    prompt = np.arange(PROMPT) % lm.config.vocab_size
    runtime = make_runtime(lm)
    request = make_request([CAPACITY - PROMPT], lm.eos_ids)
    batch = runtime.start(request, [prompt.tolist()])
    batch = runtime.advance(batch, max_steps=steps)
    return batch.clock.decode / int(batch.state.num_steps_B[0])


def _row(
    lm: MedusaLM, seconds: list[float], autoregressive: list[float], copy: float
) -> dict[str, Any]:
    step = statistics.median(seconds)
    overheads = [a / b for a, b in zip(seconds, autoregressive, strict=True)]
    parameter_bytes, cache_bytes = _parameter_bytes(lm), _cache_bytes(lm)
    bandwidth = (parameter_bytes + cache_bytes) / step
    return {
        "nodes": lm.tree.R,
        "heads_used": heads_used(lm.tree, NUM_HEADS),
        "dtype": lm.dtype,
        "step_ms": 1e3 * step,
        "step_overhead": statistics.median(overheads),
        "parameter_bytes": parameter_bytes,
        "cache_bytes": cache_bytes,
        "bytes_per_second": bandwidth,
        "copy_fraction": bandwidth / copy,
        "rounds_step_ms": [1e3 * s for s in seconds],
    }


def _parameter_bytes(lm: MedusaLM) -> int:
    """Bytes of weights that a step reads: of an embedding only rows, of a shared LM head twice."""
    count = sum(x.nbytes for x in jax.tree.leaves(lm.params))
    embed = lm.params["embed"]["weight"].nbytes
    if not lm.config.tie_embeddings:
        count -= embed
    depth = heads_used(lm.tree, NUM_HEADS)
    if not depth or lm.heads_params is None:
        return count
    used = jax.tree.map(lambda x: x[:depth], lm.heads_params)
    shared = 0 if "projection" in used else embed  # the LM head has the embedding's shape
    return count + sum(x.nbytes for x in jax.tree.leaves(used)) + shared


def _cache_bytes(lm: MedusaLM) -> int:
    """Bytes of the whole cache: attention reads all slots, also those that it masks."""
    c = lm.config
    values = 2 * c.num_layers * c.num_kv_heads * c.head_dim * CAPACITY
    return values * jnp.dtype(storage_dtype(lm.dtype, lm.platform)).itemsize
