"""Throughput of a queue of prompts: refilled rows against batches that stay together."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import medusa_jax
from infer import display
from infer.bench import torch_batches, torch_model
from infer.bench.model_job import ModelJob
from infer.bench.trees import fitting_trees
from medusa_jax import MedusaLM
from medusa_jax.chat import Prompt
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.decoding.runtime import Clock, make_request, make_runtime
from medusa_jax.io import default_model, hub

PROMPTS = 64
SHORTEST, LONGEST = 16, 256
_DEFAULT_TREES = ["mc_sim_7b_63:2"]

# (token ids of prompts, budgets) -> (new tokens of each, seconds without compiling)
Run = Callable[[Sequence[Sequence[int]], Sequence[int]], tuple[list[list[int]], float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchesJob(ModelJob):
    """What to measure.

    Attributes:
      prompts: repeated until there are `PROMPTS`.
      trees: as the user wrote them, besides plain decoding; None: a small one.
      dtype: "float32", "bfloat16" or "float16".
      batch_size: rows of the batch.
      rounds: repetitions, of which the median counts.
    """

    prompts: list[Prompt]
    trees: list[str] | None
    dtype: str
    batch_size: int
    rounds: int


def measure_batches(job: BatchesJob) -> dict[str, Any]:
    """Runs the job: prompts with budgets between `SHORTEST` and `LONGEST`, greedily.

    Returns:
      JSON values: "settings", "rows" (one per way of decoding, with all rounds) and "notes".

    Raises:
      UserError: something is wrong with the model, heads, trees or prompts.
    """
    path = default_model.default_model_path() if job.model is None else hub.resolve(job.model)
    lm = job.load(job.dtype, "chain:0")
    encoded = [encode_prompt(lm, prompt).ids for prompt in job.prompts]
    prompts = [*itertools.islice(itertools.cycle(encoded), PROMPTS)]
    drawn = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, PROMPTS).tolist()
    room = [lm.config.max_position - len(ids) for ids in prompts]
    budgets = [*map(min, drawn, room)]
    ways, notes = _ways(lm, job, path)
    rounds: list[list[tuple[list[list[int]], float]]] = [[] for _ in ways]
    with display.progress_bar() as bar:
        task = bar.add_task("Batches", total=len(ways) * (job.rounds + 1))
        # The first round compiles all programs and touches all memory, and does not count.
        for _ in range(job.rounds + 1):
            for (_, run), own in zip(ways, rounds, strict=True):
                own.append(run(prompts, budgets))
                bar.update(task, advance=1, refresh=True)
    rows = [_row(who, own[1:], rounds) for (who, _), own in zip(ways, rounds, strict=True)]
    settings = dataclasses.asdict(job) | {"prompts": len(job.prompts), "budgets": budgets}
    return {"settings": settings, "rows": rows, "notes": notes}


def _ways(lm: MedusaLM, job: BatchesJob, path: Path) -> tuple[list[tuple[Any, Run]], list[str]]:
    ways: list[tuple[Any, Run]] = []
    trees: list[str] = []
    if job.trees or lm.heads_config:
        trees = fitting_trees(job.trees or _DEFAULT_TREES, lm.heads_config)
    for name in (None, *trees):
        with_tree = lm.with_tree(name or "chain:0")
        # What auto does with a batch is done by `medusa_jax.generate`: it decides between calls.
        static = () if with_tree.auto else (("static", _static),)
        for batches, run in (*static, ("refilled", _refilled)):
            who = {"decoder": "medusa" if name else "autoregressive", "tree": name}
            ways.append((who | {"batches": batches}, run(with_tree, job.batch_size)))
    reason = job.why_alone() or torch_model.missing_reason(lm.config, path)
    if reason is not None:
        return ways, [f"no comparison with transformers: {reason}"]
    who = {"decoder": "transformers", "tree": None, "batches": "static"}
    return [*ways, (who, torch_batches.static_batches(lm, path, job.batch_size))], []


def _static(lm: MedusaLM, batch_size: int) -> Run:
    """A batch waits for its slowest row; its cache has room for the longest from the start."""
    runtime = make_runtime(lm)

    def run(prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> Any:
        answers, seconds = [], 0.0
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            request = make_request(budgets[part], lm.eos_ids)
            batch = runtime.advance(runtime.start(request, prompts[part]))
            output_BO, num_B = (
                np.asarray(x) for x in (batch.state.output_BO, batch.state.num_new_B)
            )
            answers += [row[:num].tolist() for row, num in zip(output_BO, num_B, strict=True)]
            seconds += batch.clock.prefill + batch.clock.decode
        return answers, seconds

    return run


def _refilled(lm: MedusaLM, batch_size: int) -> Run:
    """Decodes as `medusa_jax.generate` does."""

    def run(prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> Any:
        clock = Clock()
        each = [{"max_new_tokens": budget} for budget in budgets]
        done = medusa_jax.generate_as_done(
            lm, prompts, batch_size=batch_size, each=each, clock=clock
        )
        answers = {index: answer.token_ids for index, answer in done}
        return [answers[i] for i in range(len(prompts))], clock.prefill + clock.decode

    return run


def _row(
    who: dict[str, Any],
    own: list[tuple[list[list[int]], float]],
    everyone: list[list[tuple[list[list[int]], float]]],
) -> dict[str, Any]:
    """Speeds, also relative to the first way of all: static batches of plain decoding."""
    tokens = sum(map(len, own[0][0]))
    reference = everyone[0][1:]
    speeds = [tokens / seconds for _, seconds in own]
    first = [sum(map(len, answers)) / seconds for answers, seconds in reference]
    pairs = zip(own[0][0], reference[0][0], strict=True)
    return who | {
        "num_new_tokens": tokens,
        "tokens_per_second": statistics.median(speeds),
        "vs_first": statistics.median(a / b for a, b in zip(speeds, first, strict=True)),
        "different_prompts": [i for i, (a, b) in enumerate(pairs) if a != b],
        "rounds_seconds": [seconds for _, seconds in own],
    }
