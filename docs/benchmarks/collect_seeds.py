"""Gathers what runs of several seeds reached on held-out data, from their logs, into one JSON file.

  python docs/benchmarks/collect_seeds.py runs/smollm2_ablation root,root_4 ablation.json

RUNS/NAME/SEED are working folders of train.main. Of each the last held-out evaluation counts. The
names given are those that all others are compared with: by the ratio of expected tokens per step,
seed by seed, with a 95 % interval of Student's t.
"""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided, by the number of seeds
STEPS = "held_out/accepted"
SHOWN = (STEPS, "held_out/head_top1", "held_out/head_top5")


def last_held_out(folder: Path) -> dict[str, Any]:
    """Step and figures of the last evaluation in a run's log."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row = [row for row in rows if STEPS in row][-1]
    return {name.removeprefix("held_out/"): row[name] for name in ("step", *SHOWN)}


def interval(values: list[float]) -> list[float]:
    """Mean, and both ends of its interval."""
    mean = statistics.mean(values)
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return [mean, mean - half, mean + half]


def main(runs: str, references: str, output: str) -> None:
    """Writes the file."""
    found = {
        folder.name: {seed.name: last_held_out(seed) for seed in sorted(folder.iterdir())}
        for folder in sorted(Path(runs).iterdir())
        if list(folder.glob("*/metrics.jsonl"))
    }
    rows = []
    for name, seeds in found.items():
        steps = {seed: one["accepted"] for seed, one in seeds.items()}
        row = {"run": name, "tokens_per_step": interval([*steps.values()]), "seeds": seeds}
        for reference in references.split(","):
            other = {seed: one["accepted"] for seed, one in found[reference].items()}
            if name != reference:
                row[f"versus {reference}"] = interval([steps[s] / other[s] for s in steps])
        first = next(iter(seeds))
        row["settings"] = json.loads((Path(runs) / name / first / "settings.json").read_text())
        rows.append(row)
    Path(output).write_text(json.dumps(rows, indent=1) + "\n")
    for row in sorted(rows, key=lambda row: -row["tokens_per_step"][0]):
        ratios = [f"{key} {value}" for key, value in row.items() if key.startswith("versus")]
        print(row["run"], row["tokens_per_step"], *ratios)


if __name__ == "__main__":
    main(*sys.argv[1:])
