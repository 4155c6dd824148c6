"""Draws a report's intervals as bars: python docs/benchmarks/plot_runs.py REPORT.json PICTURE.svg

Each panel has the runs' ratios to, or differences from, the model itself; an interval that crosses
the line shows no difference.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

GREY = "#767676"  # to be read on white and on black alike
COLOURS = {"better": "#2f855a", "worse": "#c05621", None: GREY}
TITLES = {
    "tokens_per_step": "tokens per step, ratio",
    "lm_loss": "held-out LM loss, ratio",
    "perplexity": "perplexity of problems, ratio",
    "repetition": "repeated 4-grams, difference",
}


def compared(report: Path) -> list[dict]:
    """The rows that are compared with the model itself; none in a file of another kind."""
    try:
        rows = json.loads(report.read_text())["rows"]
        return [row for row in rows if "base" in row.get("versus", {})]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def main(rows: list[dict], picture: Path) -> None:
    """Writes the picture."""
    names = [name for name in TITLES if name in rows[0]["versus"]["base"]]
    size = 2.6 * len(names) + 1.2, 0.32 * len(rows) + 1.4
    figure, panels = plt.subplots(
        1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, name in zip(panels[0], names, strict=True):
        _draw(axes, TITLES[name], [row["versus"]["base"][name] for row in rows])
    first = panels[0][0]
    first.set_yticks(range(len(rows)), [row["run"] for row in rows])
    first.invert_yaxis()
    handles = [
        Line2D([], [], color=colour, marker="o", label=verdict or "no difference shown")
        for verdict, colour in COLOURS.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, labelcolor=GREY
    )
    figure.savefig(picture, transparent=True, metadata={"Date": None})


def _draw(axes, title: str, found: list[dict]) -> None:
    for y, one in enumerate(found):
        value = one["ratio"] if "ratio" in one else one["difference"]
        low, high = one["interval"]
        ends = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar([value], [y], xerr=ends, color=COLOURS[one["verdict"]], marker="o", capsize=3)
    axes.axvline(1 if "ratio" in found[0] else 0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title(title, color=GREY, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws a report's intervals as bars.")
    for name in ("report", "picture"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    rows = compared(given.report)
    if not rows:
        parser.error(
            f"{given.report} is no report of train.report with runs beside the model itself"
        )
    main(rows, given.picture)
