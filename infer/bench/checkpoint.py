"""Measures a real model: our decoding, without and with Medusa trees, and transformers'."""

import dataclasses
from functools import partial
from typing import Any

import medusa_jax
from infer import display
from infer.bench import torch_model
from infer.bench.contenders import (
    Answer,
    Contender,
    interleave,
    our_contender,
    ratio,
    summarize,
)
from infer.bench.model_job import ModelJob
from infer.bench.trees import fitting_trees
from infer.bench.verify import verify
from medusa_jax import MedusaLM
from medusa_jax.chat import Prompt
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.io import default_model, hub


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointJob(ModelJob):
    """What to measure.

    Attributes:
      prompts: what is asked, one at a time.
      trees: as the user wrote them; None: as many of the default ones as the heads can fill.
      dtypes: "float32", "bfloat16".
      max_new_tokens: per prompt.
      rounds: repetitions, of which the median counts.
      verify: compare every emitted token with the base model's choice in float32.
    """

    prompts: list[Prompt]
    trees: list[str] | None
    dtypes: list[str]
    max_new_tokens: int
    rounds: int
    verify: bool


def measure_checkpoint(job: CheckpointJob) -> dict[str, Any]:
    """Runs the job.

    Returns:
      JSON values: "settings", "rows" (one per contender and dtype), "identical_float32" (every
      float32 row has the tokens of our autoregressive decoding; None: float32 was not measured)
      and "notes"; with job.verify every row has a "verify", see `verify`.

    Raises:
      UserError: something is wrong with the model, heads, trees or prompts.
    """
    path = default_model.default_model_path() if job.model is None else hub.resolve(job.model)
    rows, notes, token_ids = [], [], []
    for dtype in job.dtypes:
        lm = job.load(dtype, "chain:0")
        reason = job.why_alone() or torch_model.missing_reason(lm.config, path)
        contenders = _our_contenders(lm, job)
        if reason is None:
            contenders.append(torch_model.transformers_contender(lm, path, job.max_new_tokens))
        elif not notes:
            notes.append(f"no comparison with transformers: {reason}")
        answers = _answers(lm, job, contenders)
        rows += _rows(dtype, contenders, answers)
        token_ids += [[answer.token_ids for answer in own[0]] for own in answers]
    if job.verify:
        _verify(job, rows, token_ids)
    float32 = [row["identical"] for row in rows if row["dtype"] == "float32"]
    return {
        "settings": dataclasses.asdict(job) | {"prompts": len(job.prompts)},
        "identical_float32": all(float32) if float32 else None,
        "rows": rows,
        "notes": notes,
    }


def _our_contenders(lm: MedusaLM, job: CheckpointJob) -> list[Contender]:
    limit = job.max_new_tokens
    contenders = [our_contender(lm, "autoregressive", None, limit)]
    for tree in fitting_trees(job.trees, lm.heads_config):
        with_tree = lm.with_tree(tree)
        # A root alone is the autoregressive row again, unless "auto" chose it.
        if with_tree.auto or with_tree.tree.R > 1:
            contenders.append(our_contender(with_tree, "medusa", tree, limit))
    return contenders


def _answers(
    lm: MedusaLM, job: CheckpointJob, contenders: list[Contender]
) -> list[list[list[Answer]]]:
    prompts = [list(encode_prompt(lm, prompt).ids) for prompt in job.prompts]
    total = (job.rounds + 1) * len(prompts) * len(contenders)
    with display.progress_bar() as bar:
        task = bar.add_task(f"Measuring {lm.dtype}", total=total)
        advance = partial(bar.update, task, advance=1, refresh=True)
        return interleave(contenders, prompts, job.rounds, advance)


def _rows(
    dtype: str, contenders: list[Contender], answers: list[list[list[Answer]]]
) -> list[dict[str, Any]]:
    """The contenders of one dtype, compared with the autoregressive one and with transformers."""
    summaries = [summarize(own) for own in answers]
    by_decoder = {c.decoder: s for c, s in zip(contenders, summaries, strict=True)}
    ours, theirs = summaries[0], by_decoder.get("transformers")
    rows = []
    for contender, summary, own in zip(contenders, summaries, answers, strict=True):
        different = _different(own, answers[0])
        comparison = {
            "step_overhead": ratio(summary, ours, "step_ms"),
            "speedup_vs_autoregressive": ratio(summary, ours, "tokens_per_second"),
            "speedup_vs_transformers": ratio(summary, theirs, "tokens_per_second"),
            "identical": not different,
            "different_prompts": different,
        }
        who = {"decoder": contender.decoder, "tree": contender.tree, "nodes": contender.nodes}
        rows.append(who | {"dtype": dtype} | comparison | summary)
    return rows


def _verify(job: CheckpointJob, rows: list[dict[str, Any]], answers: list[Any]) -> None:
    lm = medusa_jax.load(job.model, "none", dtype="float32")
    prompts = [list(encode_prompt(lm, prompt).ids) for prompt in job.prompts]
    for row, own in zip(rows, answers, strict=True):
        row["verify"] = verify(lm, prompts, own)


def _different(answers: list[list[Answer]], reference: list[list[Answer]]) -> list[int]:
    """Indices of the prompts that some round answered with tokens other than the reference's."""
    expected = [answer.token_ids for answer in reference[0]]
    return [
        i
        for i, token_ids in enumerate(expected)
        if any(row[i].token_ids != token_ids for row in answers)
    ]
