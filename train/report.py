"""Compares runs with the model that they started from: quality kept, steps saved.

Example:
  python -m train.report --runs runs/medusa1,runs/medusa2 --data sharegpt \\
    --problems gsm8k_train.jsonl --questions mt_bench_question.jsonl --output results.json

--output gets the environment and one row for the model itself and for every run:
  lm_loss           mean cross-entropy over the replies of held-out conversations of --data
  perplexity        exp(mean cross-entropy) over the answers of the first problems
  tokens_per_step   when the --questions are answered greedily with the run's heads and --tree
  reply_tokens      mean length of those answers, bounded by --max_new_tokens
The model answers the questions without a tree; an exact walk over its answers then counts the steps
that decoding them with the tree takes.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.table import Table

from medusa_jax import MedusaLM, generate
from medusa_jax.chat import Example, tokenize
from medusa_jax.cli import run_main, setup_compilation_cache
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.io.hub import BACKBONE
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from train.data.builder import progress_bar
from train.data.json_rows import read_json_rows
from train.data.pipeline import load_data
from train.evaluation.scores import score
from train.folder import run_path
from train.random_model import load_lm
from train.run_files import read_run
from train.settings import Settings

_RUNS = flags.DEFINE_list("runs", None, "Working folders of runs that have been exported.")
_DATA = flags.DEFINE_string(
    "data", "sharegpt", "Conversations; those that every run holds out are measured."
)
_COUNT = flags.DEFINE_integer(
    "count", 100, "At most so many held-out conversations, and problems.", lower_bound=1
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

_TITLES = {
    "lm_loss": "held-out LM loss",
    "perplexity": "problems' perplexity",
    "tokens_per_step": "tokens/step",
    "reply_tokens": "reply tokens",
}


def main(argv: list[str]) -> None:
    """Measures, prints a table and writes the report."""
    del argv
    if not (_RUNS.value and _QUESTIONS.value and _OUTPUT.value):
        raise UserError("--runs, --questions and --output are all needed: see --help")
    target = check_output(_OUTPUT.value)
    runs = [_local(name) for name in _RUNS.value]
    if len({"base", *(run.name for run in runs)}) <= len(runs):
        raise UserError("--runs: their folders need different names, and none may be named base")
    settings = [read_run(run)[0] for run in runs]
    base = _base(settings)
    share = min(of_run.held_out for of_run in settings)
    if not share:
        raise UserError("a run has config.held_out=0: no conversation is new to all of them")
    # One that is unknown or too deep is refused now rather than after the first model.
    load_tree(_TREE.value, min(of_run.num_heads for of_run in settings))
    questions = [row["turns"][0] for row in _rows(_QUESTIONS.value, {"turns": list})]
    problems = []
    if _PROBLEMS.value:
        rows = _rows(_PROBLEMS.value, {"question": str, "answer": str})
        problems = list(itertools.islice(rows, _COUNT.value))
    models = {"base": (base, None)} | {run.name: _files(run, base) for run in runs}
    setup_compilation_cache()
    report: list[dict[str, Any]] = []
    measured: dict[str | None, tuple[dict[str, Any], list[Example]]] = {}
    with progress_bar(True, TextColumn("{task.description}"), BarColumn()) as bar:
        task = bar.add_task("", total=len(models))
        for name, (model, medusa) in models.items():
            bar.update(task, description=name)
            lm = load_lm(model, medusa, dtype="float32")
            if model not in measured:  # heads alone leave the model as it was
                measured[model] = _measure_model(lm, share, questions, problems)
            row, answers = measured[model]
            report.append({"run": name} | row | _measure_heads(lm, answers))
            bar.advance(task)
    write_json(target, environment("train.report") | {"rows": report})
    _print(report)


def _local(name: str) -> Path:
    path = run_path(name)
    if not isinstance(path, Path):
        raise UserError(f"--runs: {name} is in a bucket: download it and name the local folder")
    return path


def _base(settings: Sequence[Settings]) -> str | None:
    """The model that all runs started from."""
    models = {of_run.model for of_run in settings}
    if len(models) > 1:
        raise UserError(f"the runs started from different models ({', '.join(map(str, models))})")
    return models.pop()


def _files(run: Path, base: str | None) -> tuple[str | None, str]:
    """Model and heads of a run's export."""
    folder = run / "export"
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: finish the run, or use python -m train.export")
    if (folder / BACKBONE).is_dir():
        return str(folder / BACKBONE), str(folder)
    is_whole = read_run(run)[0].export_format == "B"
    return str(folder) if is_whole else base, str(folder)


def _measure_model(
    lm: MedusaLM, share: float, questions: Sequence[str], problems: Sequence[dict[str, str]]
) -> tuple[dict[str, Any], list[Example]]:
    """The figures that do not depend on heads, and the model's answers."""
    plain = dataclasses.replace(lm, heads_config=None, heads_params=None)
    row: dict[str, Any] = {"lm_loss": _loss(plain, _conversations(lm, share))}
    if problems:
        row["perplexity"] = math.exp(_loss(plain, [_problem(lm, x) for x in problems]))
    answers = _answers(lm, questions)
    row["reply_tokens"] = float(np.mean([x.is_label_T.sum() for x in answers]))
    return row, answers


def _measure_heads(lm: MedusaLM, answers: Sequence[Example]) -> dict[str, Any]:
    if lm.heads_config is None:
        return {"tokens_per_step": 1.0}
    tree = load_tree(_TREE.value, lm.heads_config.num_heads)
    scores = score(lm, tree, answers, lambda count: None)
    top1 = (scores.hits[0] / np.maximum(scores.labels_M, 1)).tolist()
    return {"tokens_per_step": scores.num_tokens / scores.steps, "head_top1": top1}


def _loss(lm: MedusaLM, examples: Sequence[Example]) -> float:
    scores = score(lm, build_tree([]), examples, lambda count: None)
    return scores.lm_loss / scores.num_tokens


def _conversations(lm: MedusaLM, share: float) -> list[Example]:
    """Conversations that no run has learned from, provided that their ids are the same."""
    splits = load_data(
        _DATA.value,
        lm.tokenizer,
        seq_len=_MAX_LENGTH.value,
        held_out=share,
        data_errors="skip",  # what a run has accepted
        progress=False,
    )
    count = min(_COUNT.value, len(splits.held_out))
    rows = (splits.held_out[i] for i in range(count))
    return [Example(row["token"], row["is_label"]) for row in rows]


def _problem(lm: MedusaLM, row: dict[str, str]) -> Example:
    pairs = (("user", row["question"]), ("assistant", row["answer"]))
    messages = [{"role": role, "content": content} for role, content in pairs]
    return tokenize(lm.tokenizer, messages, truncated=False, max_length=_MAX_LENGTH.value)


def _answers(lm: MedusaLM, questions: Sequence[str]) -> list[Example]:
    """The questions with the model's own greedy answers, token by token."""
    prompts = [encode_prompt(lm, question) for question in questions]
    answers = generate(
        lm.with_tree("chain:0"), prompts, batch_size=16, max_new_tokens=_MAX_NEW_TOKENS.value
    )
    return [
        Example(
            np.asarray([*prompt.ids, *answer.token_ids], np.int32),
            np.arange(len(prompt.ids) + answer.num_new_tokens) >= len(prompt.ids),
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _rows(path: str, kinds: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Objects with these keys; the first other one raises."""
    for row in read_json_rows(Path(path).expanduser()):
        is_good = isinstance(row.value, dict) and all(
            isinstance(row.value.get(key), kind) and row.value[key] for key, kind in kinds.items()
        )
        if not is_good:
            problem = row.problem or f"expected an object with {', '.join(kinds)}"
            raise UserError(f"{path}:{row.line}: {problem}")
        yield row.value


def _print(rows: Sequence[dict[str, Any]]) -> None:
    names = [name for name in _TITLES if name in rows[0]]
    table = Table("run", *(_TITLES[name] for name in names), box=SIMPLE_HEAD, show_edge=False)
    for row in rows:
        table.add_row(row["run"], *(f"{row[name]:.3f}" for name in names))
    Console(highlight=False).print(table)


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
