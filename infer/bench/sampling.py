"""Tokens per step of exact sampling: drafts that know the noise against drafts that do not."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats

from infer import display
from infer.bench.model_job import ModelJob
from infer.bench.near_ties import parting
from medusa_jax import GenerationConfig, MedusaLM, UserError
from medusa_jax.chat import Encoded, Prompt
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.decoding.options import make_rule, rule_numbers
from medusa_jax.decoding.rules.lossless import Lossless
from medusa_jax.decoding.rules.rule import RankedByLogits, Rule
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.tree.presets import load_fitting_tree

TEMPERATURES = (0.0, 0.7, 1.0, 1.3)
_BATCH = 8
_TREE = "mc_sim_7b_63"


@dataclasses.dataclass(frozen=True)
class Unaware(RankedByLogits, Lossless):
    """The same rule, with drafts ranked by the heads alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingJob(ModelJob):
    """What to measure.

    Attributes:
      prompts: what is asked.
      tree: the one that every step fills; None: a published one, as far as the heads reach.
      dtype: "float32", "bfloat16" or "float16".
      max_new_tokens: per prompt.
      seeds: how many answers to each prompt.
    """

    prompts: list[Prompt]
    tree: str | None
    dtype: str
    max_new_tokens: int
    seeds: int


def measure_sampling(job: SamplingJob) -> dict[str, Any]:
    """Runs the job.

    Returns:
      JSON values: "settings" and "rows", one per temperature and kind of draft: tokens and steps of
      each prompt, tokens per step, its 95 % bootstrap interval over prompts, its ratio to greedy
      decoding with a paired interval, and where answers part from those of plain decoding, with
      prompt and seed (see `near_ties.parting`).

    Raises:
      UserError: the model has no heads, or too few for the tree.
    """
    lm = _with_tree(job.load(job.dtype), job.tree)
    encoded = [encode_prompt(lm, prompt) for prompt in job.prompts]
    kinds = [(0.0, True), *itertools.product(TEMPERATURES[1:], (True, False))]
    rows: list[dict[str, Any]] = []
    with display.progress_bar() as bar:
        task = bar.add_task("Sampling", total=(len(kinds) + len(TEMPERATURES)) * len(encoded))
        bare = lm.with_tree("chain:0")
        plain = {t: _answers(bare, job, encoded, t, None, bar, task) for t in TEMPERATURES}
        for temperature, aware in kinds:
            rule = None if aware else Unaware()
            answers = _answers(lm, job, encoded, temperature, rule, bar, task)
            parted = _partings(lm, encoded, temperature, plain[temperature], answers)
            rows.append(_row(temperature, aware, answers, parted, rows[0] if rows else None))
    tree = {"tree": job.tree or _TREE, "nodes": lm.tree.R}
    settings = dataclasses.asdict(job) | {"prompts": len(job.prompts)} | tree
    return {"settings": settings, "rows": rows}


def _with_tree(lm: MedusaLM, tree: str | None) -> MedusaLM:
    if tree is not None:
        return lm.with_tree(tree)
    if lm.heads_config is None:
        raise UserError("--sampling compares drafts of Medusa heads: name them with --medusa")
    num_heads, vocab_size = lm.heads_config.num_heads, lm.heads_config.vocab_size
    return lm.with_tree(load_fitting_tree(_TREE, num_heads, vocab_size))


def _answers(
    lm: MedusaLM,
    job: SamplingJob,
    encoded: Sequence[Encoded],
    temperature: float,
    rule: Rule | None,
    bar: Any,
    task: Any,
) -> list[tuple[list[list[int]], int]]:
    """Tokens of every answer to each prompt, and the steps that they took together."""
    config = GenerationConfig(temperature=temperature)
    runtime = make_runtime(lm, rule=rule or make_rule(config, lm.tree))
    tokens: list[list[list[int]]] = [[] for _ in encoded]
    steps = [0] * len(encoded)
    for seed in range(job.seeds if temperature else 1):
        for start in range(0, len(encoded), _BATCH):
            numbers = [min(start + i, len(encoded) - 1) for i in range(_BATCH)]
            request = make_request(
                [
                    min(job.max_new_tokens, lm.config.max_position - len(encoded[n].ids))
                    for n in numbers
                ],
                lm.eos_ids,
                seed=seed,
                numbers=numbers,
                rule_numbers=rule_numbers([config] * _BATCH),
            )
            batch = runtime.advance(runtime.start(request, [encoded[n].ids for n in numbers]))
            output, num, num_steps = jax.device_get(
                (batch.state.output_BO, batch.state.num_new_B, batch.state.num_steps_B)
            )
            for i, number in enumerate(dict.fromkeys(numbers)):
                tokens[number].append(output[i, : num[i]].tolist())
                steps[number] += int(num_steps[i])
                done = 1 / (job.seeds if temperature else 1)
                bar.update(task, advance=done, refresh=True)
    return list(zip(tokens, steps, strict=True))


def _partings(
    lm: MedusaLM,
    encoded: Sequence[Encoded],
    temperature: float,
    plain: Sequence[tuple[list[list[int]], int]],
    answers: Sequence[tuple[list[list[int]], int]],
) -> list[dict[str, Any]]:
    """Where all answers that differ from those of plain decoding part from them."""
    found = []
    for number, (prompt, ours, theirs) in enumerate(zip(encoded, plain, answers, strict=True)):
        for seed, texts in enumerate(zip(ours[0], theirs[0], strict=True)):
            where = {"temperature": temperature, "seed": seed, "number": number}
            if (parted := parting(lm, prompt.ids, texts, **where)) is not None:
                found.append({"prompt": number, "seed": seed, **parted})
    return found


def _row(
    temperature: float,
    aware: bool,
    answers: Sequence[tuple[list[list[int]], int]],
    partings: list[dict[str, Any]],
    greedy: dict[str, Any] | None,
) -> dict[str, Any]:
    tokens = np.asarray([sum(map(len, own)) for own, _ in answers])
    steps = np.asarray([steps for _, steps in answers])
    row = {
        "temperature": temperature,
        "noise_in_drafts": aware,
        "tokens": tokens.tolist(),
        "steps": steps.tolist(),
        "tokens_per_step": float(tokens.sum() / steps.sum()),
        "interval": _interval(lambda t, s: t.sum(-1) / s.sum(-1), tokens, steps),
        "partings": partings,
    }
    if greedy is None:
        return row

    def ratio(t: Any, s: Any, t0: Any, s0: Any) -> Any:
        return t.sum(-1) / s.sum(-1) / (t0.sum(-1) / s0.sum(-1))

    of = (tokens, steps, np.asarray(greedy["tokens"]), np.asarray(greedy["steps"]))
    return row | {"vs_greedy": float(ratio(*of)), "vs_greedy_interval": _interval(ratio, *of)}


def _interval(statistic: Any, *samples: np.ndarray) -> list[float] | None:
    """95 % bootstrap interval over prompts, which are resampled together; None for one prompt."""
    if len(samples[0]) < 2:
        return None
    result = scipy.stats.bootstrap(
        samples,
        lambda *x, axis: statistic(*x),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]
