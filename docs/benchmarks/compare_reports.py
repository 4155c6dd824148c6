"""Compares runs of different reports of train.report, prompt by prompt.

  python docs/benchmarks/compare_reports.py a.json:own,b.json:base a.json:own:0,b.json:own out.json

Each pair is FILE:RUN,FILE:RUN; a third part, such as :0, takes one seed instead of all. Figures and
95 % intervals are those that train.report writes ("versus") for runs of one report: a bootstrap
over prompts, paired, with Student's t over seeds. Sets of prompts that differ are left out.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from train.reporting.figures import FIGURES, Prompts
from train.reporting.rows import compared

# By set, what is the same for all runs that were measured on the same prompts.
SAME = {"conversations": "tokens", "problems": "tokens", "questions": "original_tokens"}


class Run(NamedTuple):
    """A run of a report: its name with its file, and every seed's prompts."""

    name: str
    seeds: list[Prompts]


def run_of(text: str) -> Run:
    """What FILE:RUN or FILE:RUN:SEED stands for.

    Raises:
      UserError: there is no such file, run or seed.
    """
    path, _, rest = text.partition(":")
    name, _, seed = rest.partition(":")
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
        row = next(row for row in rows if row["run"] == name)
        return Run(text, row["prompts"] if not seed else [row["prompts"][int(seed)]])
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        raise UserError(
            f"{text}: write FILE:RUN or FILE:RUN:SEED, of a file that train.report has written"
        ) from None


def common_sets(one: Run, two: Run) -> list[str]:
    """The sets on which both were measured, with the same prompts."""

    def prompts_of(run: Run, name: str) -> list[Any]:
        return [row.get(SAME[name]) for row in run.seeds[0][name]]

    return [
        name
        for name in SAME
        if prompts_of(one, name) and prompts_of(one, name) == prompts_of(two, name)
    ]


def compare(pair: str) -> dict[str, Any]:
    """Every figure of the first run against the second's.

    Raises:
      UserError: they have no prompts in common.
    """
    first, _, second = pair.partition(",")
    one, two = run_of(first), run_of(second)
    sets = common_sets(one, two)
    if not sets:
        raise UserError(f"{pair}: the two were measured on different prompts")
    found: dict[str, Any] = {"run": one.name, "versus": two.name}
    for figure in FIGURES:
        if figure.prompts in sets:
            own, other = figure.estimate(one.seeds, 0), figure.estimate(two.seeds, 1)
            found[figure.name] = compared(figure, own, other)
    return found


def main(*arguments: str) -> None:
    """Writes the file."""
    *pairs, output = arguments or [""]
    if not pairs:
        raise UserError("say FILE:RUN,FILE:RUN for every comparison, and then the file to write")
    target = check_output(output)
    rows = [compare(pair) for pair in pairs]
    write_json(target, environment("docs.benchmarks.compare_reports") | {"rows": rows})
    for row in rows:
        print(row["run"], "versus", row["versus"])
        for name, found in row.items():
            if isinstance(found, dict):
                value = found.get("ratio", found.get("difference"))
                low, high = found["interval"]
                print(f"  {name} {value:.4f} [{low:.4f}, {high:.4f}] {found['verdict'] or ''}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
