"""Compares the steps that answers took, with other heads or trees, from rows of infer.generate.

  python -m infer.generate --prompt_file q.jsonl --tree smollm2_135m_63 --output a.jsonl
  python -m infer.generate --prompt_file q.jsonl --tree dynamic:64 --output b.jsonl
  python docs/benchmarks/compare_steps.py static=a.jsonl dynamic=b.jsonl steps.json

Writes tokens per step of every name, and the ratio to that of the first name, with 95 % intervals:
a bootstrap over prompts, paired (`train.reporting.statistics`). All names must have answered the
same prompts, whose beginnings are written too, and how many answers differ in their tokens from the
first name's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from train.reporting.statistics import Estimate, draw_prompts, estimate

SEED = 0
SHOWN = 60  # characters of a prompt, to tell which it is


def rows_of(path: str) -> list[dict[str, Any]]:
    """What `infer.generate --output` wrote.

    Raises:
      UserError: the file is something else, or does not exist.
    """
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="ascii").splitlines()]
        is_right = all(
            len(row["token_ids"]) == row["num_new_tokens"] > 0 and "prompt" in row for row in rows
        )
        if is_right and len(rows) > 1 and not any(row["sample"] for row in rows):
            return rows
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{path}: name what infer.generate --output has written, one answer to each of two prompts "
        "or more"
    )


def tokens_per_step(rows: list[dict[str, Any]], drawn_RN: np.ndarray) -> Estimate:
    """Tokens per step over all rows, with what other prompts might have given."""
    tokens_1N = np.asarray([[row["num_new_tokens"] for row in rows]], float)
    steps_1N = np.asarray([[row["num_steps"] for row in rows]], float)
    return estimate(tokens_1N, steps_1N, drawn_RN, "ratio", np.random.default_rng(SEED))


def compare(named: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row per name.

    Raises:
      UserError: the names have answered different prompts.
    """
    first = next(iter(named.values()))
    drawn_RN = draw_prompts(len(first), SEED)
    reference, found = tokens_per_step(first, drawn_RN), []
    for name, rows in named.items():
        if [row["prompt"] for row in rows] != [row["prompt"] for row in first]:
            raise UserError(f"{name} has answered other prompts than {next(iter(named))}")
        own = tokens_per_step(rows, drawn_RN)
        ratio = own.versus(reference)
        pairs = zip(rows, first, strict=True)
        found.append(
            {
                "name": name,
                "tokens_per_step": [own.value, *own.interval],
                "versus_first": [ratio.value, *ratio.interval],
                "other_answers": sum(a["token_ids"] != b["token_ids"] for a, b in pairs),
                "tokens": [row["num_new_tokens"] for row in rows],
                "steps": [row["num_steps"] for row in rows],
            }
        )
    return found


def main(*arguments: str) -> None:
    """Writes the file."""
    *pairs, output = arguments or [""]
    split = [pair.partition("=") for pair in pairs]
    if (
        not split
        or not all(path for _, _, path in split)
        or len({name for name, _, _ in split}) < len(split)
    ):
        raise UserError(
            "say NAME=ROWS.jsonl for every answer file, with names of their own, and then the file "
            "to write"
        )
    target = check_output(output)
    rows = compare({name: rows_of(path) for name, _, path in split})
    prompts = [row["prompt"][:SHOWN] for row in rows_of(split[0][2])]
    found = {"prompts": prompts, "rows": rows}
    write_json(target, environment("docs.benchmarks.compare_steps") | found)
    for row in rows:
        value, low, high = row["tokens_per_step"]
        ratio = "{:.3f} [{:.3f}, {:.3f}]".format(*row["versus_first"])
        other = row["other_answers"]
        print(f"{row['name']}: {value:.3f} [{low:.3f}, {high:.3f}], {ratio}, {other} differ")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
