"""What follows from the measurements: a table of sizes, and the choice for every batch size."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from infer.tuning.keep import Kept
from medusa_jax import MedusaLM
from medusa_jax.cli.console import make_console, print_table
from medusa_jax.decoding.buckets import cache_slots
from medusa_jax.tuning.choose import PLAIN
from medusa_jax.tuning.measured import Acceptance, Measured
from medusa_jax.tuning.prospect import Prospect
from medusa_jax.tuning.times import StepTimes

_COLUMNS = ("batch", "nodes", "tok/step", "step ms", "tok/s", "x plain", "choice")
# bfloat16 has to gain this much over float32, whose texts do not depend on the tree.
_WORTH_BFLOAT16 = 1.05


def summary(
    lm: MedusaLM,
    kept: Kept,
    acceptance: Acceptance,
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> dict[str, Any]:
    """Greedy decoding with every size whose step was measured.

    Returns:
      JSON values: "points", by dtype [batch, nodes, slots, seconds]; and "rows", one per dtype,
      batch size and nodes, in this order, of which one per dtype and batch size is "chosen".
    """
    rows, points = [], {}
    for dtype in dtypes:
        own = kept.points(dtype)
        points[dtype] = [list(dataclasses.astuple(point)) for point in own]
        measured = Measured(acceptance, {dtype: StepTimes(own)})
        lm = dataclasses.replace(lm, dtype=dtype, measured=measured)
        for batch in batches:
            sizes = sorted({p.nodes for p in own if p.batch == batch})
            if not sizes:
                continue  # it had no room
            rows += _rows(lm.prospect(0.0, batch), dtype, batch, sizes)
    return {"points": points, "rows": rows}


def _rows(prospect: Prospect, dtype: str, batch: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    slots = cache_slots(1)
    seconds, chosen = prospect.seconds(slots), prospect.choose(slots).nodes
    rows = []
    for nodes in sorted({*sizes, chosen} & set(seconds)):
        tokens = prospect.belief.tokens[nodes]
        rows.append(
            {
                "dtype": dtype,
                "batch": batch,
                "nodes": nodes,
                "tokens_per_step": tokens,
                "step_ms": 1e3 * seconds[nodes],
                "tokens_per_second": batch * tokens / seconds[nodes],
                "speedup_vs_plain": tokens * seconds[PLAIN] / seconds[nodes],
                "chosen": nodes == chosen,
            }
        )
    return rows


def fastest(lm: MedusaLM, measured: Measured) -> str | None:
    """The dtype that decodes one row fastest; None: fewer than two were measured with one row."""
    speed = {}
    for dtype, times in measured.times.items():
        if any(point.batch == 1 for point in times.points):
            prospect = dataclasses.replace(lm, dtype=dtype, measured=measured).prospect(0.0, 1)
            rows = _rows(prospect, dtype, 1, ())
            speed[dtype] = max(row["tokens_per_second"] for row in rows if row["chosen"])
    if "bfloat16" in speed:
        speed["bfloat16"] /= _WORTH_BFLOAT16
    return max(speed, key=lambda dtype: speed[dtype]) if len(speed) > 1 else None


def show(summary: dict[str, Any], default: str | None) -> None:
    """Prints the rows, a table per dtype, and what is done by default from now on.

    Args:
      summary: see `summary`.
      default: dtype, where the measurements decide; None: they do not.
    """
    rows = summary["rows"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        print_table(dtype, _COLUMNS, _cells([row for row in rows if row["dtype"] == dtype]))
    lines = ["Step times are those of a short context; tok/s are of all rows together."]
    lines.append("--tree auto begins with the sizes marked, and goes on learning while it decodes.")
    if default is not None:
        lines.append(f"The default --dtype of this model here is now {default}.")
    console = make_console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _cells(rows: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for i, row in enumerate(rows):
        is_new = i == 0 or rows[i - 1]["batch"] != row["batch"]
        yield [
            str(row["batch"]) if is_new else "",
            "plain" if row["nodes"] == PLAIN else str(row["nodes"]),
            f"{row['tokens_per_step']:.2f}",
            f"{row['step_ms']:.2f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['speedup_vs_plain']:.2f}x",
            "<-" if row["chosen"] else "",
        ]
