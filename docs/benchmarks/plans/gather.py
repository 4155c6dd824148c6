"""Gathers plans of training into one JSON file, a row per recipe and slice, with hours.

  python docs/benchmarks/plans/gather.py FOLDER ... slices.json

FOLDERs hold what train.plan writes; rows of other plans that the file has already stay. Hours are
those of all tokens of a recipe at the estimated speed, without waiting, evaluation or compilation.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

# Millions, of all epochs of a run. 68.6k rows of ShareGPT have about 1690 tokens of Llama 2 each;
# Llama 3's are fewer. For replies only the number of conversations is known: 100k, here taken to
# have 1000 tokens each.
SHAREGPT, REPLIES = 230, 200
TOKENS = {
    "vicuna_7b_medusa1.py": SHAREGPT,
    "vicuna_7b_medusa2.py:stage1": SHAREGPT,
    "vicuna_7b_medusa2.py:stage2": SHAREGPT,
    "llama3_8b_medusa1.py": SHAREGPT,
    "vicuna_13b_medusa1.py": SHAREGPT,
    "vicuna_13b_medusa2.py:stage1": SHAREGPT,
    "vicuna_13b_medusa2.py:stage2": SHAREGPT,
    "zephyr_7b_selfdistill.py": REPLIES,
    "vicuna_33b_selfdistill.py": REPLIES,
}
_RECIPE = re.compile(r"train\.plan .*--config[= ]configs/(\S+)")
_KEPT = (
    "topology", "device_kind", "num_devices", "fits", "hbm_bytes", "argument_bytes", "temp_bytes",
    "total_bytes", "flops", "hbm_traffic_bytes", "collective_bytes", "step_cycles_compiler",
    "step_ms_roofline", "tokens_per_second_per_device", "mfu_bound", "compile_seconds", "commit",
    "command",
)  # fmt: skip


def row(plan: dict[str, Any]) -> dict[str, Any] | None:
    """What is kept of a plan; None: it is not of a large recipe as it stands."""
    found = _RECIPE.search(plan["command"])
    if found is None or found[1] not in TOKENS or "--config." in plan["command"]:
        return None
    kept = {name: plan[name] for name in _KEPT}
    tokens, speed = 1e6 * TOKENS[found[1]], plan["tokens_per_second_per_device"]
    hours = None
    if plan["fits"]:
        hours = round(tokens / (speed * plan["num_devices"]) / 3600, 2)
    return {"recipe": found[1], "tokens": tokens, "hours": hours} | kept


def order(one: dict[str, Any]) -> tuple[Any, ...]:
    """Sorts by recipe as above, then by device and number of devices."""
    kind = one["topology"].partition(":")[0]
    return [*TOKENS].index(one["recipe"]), kind, one["num_devices"], one["topology"]


def main(*folders_and_output: str) -> None:
    """Writes the file."""
    *folders, output = folders_and_output
    target = Path(output)
    before = json.loads(target.read_text()) if target.exists() else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.json"))]
    plans = [json.loads(file.read_text()) for file in files if file.name != target.name]
    new = [one for plan in plans if "command" in plan and (one := row(plan)) is not None]
    by_slice = {(one["recipe"], one["topology"]): one for one in (*before, *new)}
    rows = sorted(by_slice.values(), key=order)
    target.write_text(json.dumps(rows, indent=1) + "\n")
    for one in rows:
        size = "refused" if one["total_bytes"] is None else f"{one['total_bytes'] / 1e9:.1f} GB"
        hours = "does not fit" if one["hours"] is None else f"{one['hours']:.1f} hours"
        print(one["recipe"], one["topology"], size, hours)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        print(f"usage: {sys.argv[0]} FOLDER ... slices.json", file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
