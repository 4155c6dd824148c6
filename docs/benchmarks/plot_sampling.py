"""Draws docs/sampling.svg from cpu_sampling.json: python docs/benchmarks/plot_sampling.py"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    """Reads the rows, writes the picture."""
    rows = json.loads((HERE / "cpu_sampling.json").read_text())["rows"]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    grey = "#767676"  # to be read on white and on black alike
    for aware, colour, label in (
        (True, "#3b82c4", "drafts know the noise"),
        (False, "#b0671e", "drafts do not"),
    ):
        own = [r for r in rows if r["noise_in_drafts"] == aware or r["temperature"] == 0]
        x = [r["temperature"] for r in own]
        y = [r["tokens_per_step"] for r in own]
        low = [r["tokens_per_step"] - r["interval"][0] for r in own]
        high = [r["interval"][1] - r["tokens_per_step"] for r in own]
        axes.errorbar(x, y, (low, high), color=colour, marker="o", capsize=3, label=label)
    axes.set(xlabel="temperature", ylabel="tokens per step", ylim=(1, None))
    axes.legend(frameon=False, labelcolor=grey, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(grey)
    axes.tick_params(colors=grey)
    axes.xaxis.label.set_color(grey)
    axes.yaxis.label.set_color(grey)
    figure.savefig(HERE.parent / "sampling.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
