"""Compares runs with the model that they started from, or with each other: quality and steps.

Examples:
  python -m train.report --runs runs/medusa1,runs/medusa2 --data sharegpt \\
    --problems gsm8k_train.jsonl --questions mt_bench_question.jsonl --output results.json
  python -m train.report --runs plain=runs/a0+runs/a1+runs/a2,own=runs/b0+runs/b1+runs/b2 \\
    --reference base,plain --questions mt_bench_question.jsonl --output results.json

--output gets the environment, a row for the model itself ("base") and one for every run, with the
run's settings, the measurements of every single prompt, and these figures:
  lm_loss           mean cross-entropy over the replies of held-out conversations of --data
  perplexity        exp(mean cross-entropy) over the answers of the first problems
  tokens_per_step   when the --questions are answered greedily with the run's heads and --tree
  reply_tokens      mean length of those answers, bounded by --max_new_tokens
  agreement         share of the original model's answers before the run's model differs from them
  identical         share of answers that are the original's, token by token
  kl_divergence     KL of the run's model from the original on the original's answers, nats a token
  repetition        share of an answer's 4-grams that occurred in it before
The model answers the questions without a tree; an exact walk over its answers then counts the steps
that decoding them with the tree takes. Every run is kept in FILE.part as soon as it is measured:
after an interruption, rerun the command to go on.

Intervals are 95 %, from a bootstrap over prompts, paired between runs. Where several runs that
differ in config.seed have one name, they cover seeds too; for a single run, prompts alone. A run is
called better or worse than a reference only where the interval of their ratio excludes 1, or that
of their difference 0.
"""

import functools
from collections.abc import Sequence
from typing import Any

from absl import flags
from rich.progress import BarColumn, TextColumn

from medusa_jax import MedusaLM
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.io.stamp import stamp
from medusa_jax.paths import user_path
from medusa_jax.tree.presets import load_tree
from train.data.builder import progress_bar
from train.random_model import load_lm
from train.reporting.kept import Kept, digest_of, keep
from train.reporting.measure import Models
from train.reporting.rows import Measured, make_rows
from train.reporting.runs import BASE, Runs, base_model, parse_runs
from train.reporting.sets import (
    Sets,
    encoded_questions,
    held_out_conversations,
    read_problems,
    read_questions,
    tokenized_problems,
)
from train.reporting.statistics import CONFIDENCE, RESAMPLES
from train.reporting.table import print_rows

_RUNS = flags.DEFINE_list(
    "runs",
    None,
    "Working folders of runs that have been exported: DIR or NAME=DIR; NAME=DIR1+DIR2+... averages "
    "runs that differ in config.seed.",
)
_REFERENCE = flags.DEFINE_list(
    "reference", [BASE], f"Names that the others are compared with; {BASE}: the model itself."
)
_DATA = flags.DEFINE_string(
    "data", "sharegpt", "Conversations; those that every run holds out are measured."
)
_COUNT = flags.DEFINE_integer(
    "count", 100, "At most this many held-out conversations, and problems.", lower_bound=1
)
_PROBLEMS = flags.DEFINE_string(
    "problems", None, 'JSON lines with "question" and "answer" (GSM8K); default: none.'
)
_QUESTIONS = flags.DEFINE_string(
    "questions", None, 'JSON lines with "turns" (MT-bench), of which the first is asked.'
)
_MAX_LENGTH = flags.DEFINE_integer(
    "max_length", 512, "Longer conversations are cut to this many tokens.", lower_bound=2
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Longest answer in tokens.", lower_bound=1
)
_TREE = flags.DEFINE_string(
    "tree", "mc_sim_7b_63", "Tree to count steps with; as in infer.generate."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the rows.")
_ALLOW_DIRTY = flags.DEFINE_boolean(
    "allow_dirty", False, "Write --output even if no commit has the code that runs."
)


def main(argv: list[str]) -> None:
    """Measures, prints tables and writes the report."""
    del argv
    if not (_RUNS.value and _QUESTIONS.value and _OUTPUT.value):
        raise UserError("--runs, --questions and --output are all needed: see --help")
    target = check_output(_OUTPUT.value)
    about = environment("train.report")
    _check_commit(about["commit"])
    runs = parse_runs(_RUNS.value)
    _check_references([BASE, *(one.name for one in runs)])
    base = base_model(runs)
    settings = [own for one in runs for own in one.settings]
    share, seq_len = min(own.held_out for own in settings), max(own.seq_len for own in settings)
    if not share:
        raise UserError("a run has config.held_out=0: no conversation is new to all of them")
    # A tree that is unknown or too deep is refused now rather than after the first model.
    load_tree(_TREE.value, min(own.num_heads for own in settings))
    questions = read_questions(_QUESTIONS.value)
    problems = read_problems(_PROBLEMS.value, _COUNT.value) if _PROBLEMS.value else []
    setup_compilation_cache()
    lm = load_lm(base, None, dtype="float32")
    sets = Sets(
        held_out_conversations(lm, _DATA.value, share, seq_len, _COUNT.value, _MAX_LENGTH.value),
        tokenized_problems(lm, problems, _MAX_LENGTH.value),
        encoded_questions(lm, questions),
        _MAX_NEW_TOKENS.value,
    )
    with keep(target, _identity(about, base, sets)) as kept:
        report = make_rows(_measure(base, lm, sets, runs, kept), _REFERENCE.value)
        bootstrap = {"resamples": RESAMPLES, "confidence": CONFIDENCE}
        write_json(target, about | {"model": base, "bootstrap": bootstrap, "rows": report})
    print_rows(report, _REFERENCE.value)


def _identity(about: dict[str, Any], base: str | None, sets: Sets) -> dict[str, Any]:
    """What all measurements depend on; only a report with the same goes on with them."""
    return {key: about[key] for key in ("commit", "device", "versions")} | {
        "model": stamp(user_path(base)) if base else None,
        "prompts": digest_of(sets),
        "max_new_tokens": sets.max_new_tokens,
        "tree": load_tree(_TREE.value).paths(),
    }


def _check_commit(commit: str | None) -> None:
    """Refuses to write numbers that nobody could trace to the code that made them."""
    if _ALLOW_DIRTY.value:
        return
    if commit is None:
        raise UserError(
            "--output: no commit is known of this code, so that nobody could repeat its numbers: "
            "run it in a git clone, or with --allow_dirty"
        )
    if commit.endswith("-dirty"):
        raise UserError(
            f"--output: files differ from those of commit {commit.removesuffix('-dirty')}: commit "
            "them first, or say --allow_dirty"
        )


def _check_references(names: Sequence[str]) -> None:
    for reference in _REFERENCE.value:
        if reference not in names:
            raise UserError(f"--reference: {reference} is none of {', '.join(names)}")


def _measure(
    base: str | None, lm: MedusaLM, sets: Sets, runs: Sequence[Runs], kept: Kept
) -> list[Measured]:
    """Measures the model itself and all runs."""
    with progress_bar(True, TextColumn("{task.description}"), BarColumn()) as bar:
        task = bar.add_task(BASE, total=1 + sum(len(one.folders) for one in runs))
        models = Models(base, lm, sets, _TREE.value)
        all_measured = [Measured(BASE, each=[kept.get(BASE, models.original)])]
        bar.advance(task)
        for one in runs:
            bar.update(task, description=one.name)
            measured = Measured(one.name, one)
            for model, medusa in one.exports:
                measure = functools.partial(models.run, model, medusa)
                measured.each.append(kept.get(stamp(user_path(medusa)), measure))
                bar.advance(task)
            all_measured.append(measured)
    return all_measured


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
