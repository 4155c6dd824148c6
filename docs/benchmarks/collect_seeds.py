"""Gathers what runs of several seeds reached on held-out data, from their logs, into one JSON file.

  python docs/benchmarks/collect_seeds.py runs/smollm2_kinds root,root_4,branch ablation.json

RUNS/NAME/SEED are working folders of train.main; a run without others has its own in RUNS/NAME. The
last held-out evaluation of each counts, and of a lone run all are kept; a run without any is left
out. All others are compared with the names given, by ratios, seed by seed, with a 95 % interval of
Student's t.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any, NoReturn

import scipy.stats

HELD_OUT = "held_out/"
# Their names in the file; a frozen backbone has no loss.
FIGURES = {"accepted": "tokens_per_step", "lm_loss": "lm_loss"}
SHOWN = ("step", *FIGURES, "head_top1", "head_top5")


def held_out(folder: Path) -> list[dict[str, Any]]:
    """Steps and figures of the evaluations in a run's log."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if HELD_OUT + "accepted" in row]
    rows = [
        {key.removeprefix(HELD_OUT): row[key] for key in row if of_evaluation(key)} for row in rows
    ]
    return [{name: row[name] for name in SHOWN if name in row} for row in rows]


def of_evaluation(key: str) -> bool:
    """Whether a key is of an evaluation rather than of training."""
    return key == "step" or key.startswith(HELD_OUT)


def interval(values: list[float]) -> list[float | None]:
    """Mean, and both ends of its interval; with one seed nobody knows them."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return [mean, None, None]
    quantile = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return [mean, mean - half, mean + half]


def row_of(name: str, found: dict[str, Any], references: list[str]) -> dict[str, Any]:
    """What the runs of one name reached, also relative to others."""
    seeds = found[name]
    row: dict[str, Any] = {"run": name, "seeds": seeds}
    for key, title in FIGURES.items():
        if not all(key in one for one in seeds.values()):
            continue
        row[title] = interval([one[key] for one in seeds.values()])
        for reference in references:
            others = found[reference]
            both = [seed for seed in seeds if key in others.get(seed, {})]
            if name != reference and len(both) > 1:
                ratios = [seeds[seed][key] / others[seed][key] for seed in both]
                row[f"{title} versus {reference}"] = interval(ratios)
    return row


def about(folder: Path) -> dict[str, Any]:
    """Settings of a run, and where it was made, if it says."""
    files = [folder / f"{name}.json" for name in ("settings", "environment")]
    return {file.stem: json.loads(file.read_text()) for file in files if file.is_file()}


def refuse(message: str) -> NoReturn:
    """Ends with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main(runs: str, references: str, output: str) -> None:
    """Writes the file."""
    if not Path(runs).is_dir():
        refuse(f"{runs} is no folder: name one that holds working folders of train.main")
    found, rows, lone = {}, [], []
    for folder in sorted(Path(runs).iterdir()):
        if seeds := sorted(log.parent for log in folder.glob("*/metrics.jsonl")):
            last = {seed.name: held_out(seed)[-1:] for seed in seeds}
            if evaluated := {seed: rows[0] for seed, rows in last.items() if rows}:
                found[folder.name] = evaluated
        elif (folder / "metrics.jsonl").is_file():
            lone.append({"run": folder.name, "curve": held_out(folder)} | about(folder))
    for missing in set(references.split(",")) - set(found):
        refuse(f"{missing} has no runs in {runs}: there are {', '.join(found) or 'none'}")
    for name in found:
        row = row_of(name, found, references.split(","))
        rows.append(row | about(Path(runs) / name / next(iter(found[name]))))
    Path(output).write_text(json.dumps({"rows": rows, "lone": lone}, indent=1) + "\n")
    for row in sorted(rows, key=lambda row: -row["tokens_per_step"][0]):
        print(row["run"], *(f"{k} {row[k]}" for k in row if k.startswith(tuple(FIGURES.values()))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Gathers what runs of several seeds reached.")
    for name in ("runs", "references", "output"):
        parser.add_argument(name)
    main(**vars(parser.parse_args()))
