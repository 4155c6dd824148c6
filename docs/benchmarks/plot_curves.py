"""Draws how long runs went: python docs/benchmarks/plot_curves.py

From smollm2_controls.json to docs/controls.svg: held-out LM loss and expected tokens per step over
the steps of training, and where the model and the heads stood before.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
GREY = "#767676"  # to be read on white and on black alike
COLOURS = {"lora_only": GREY, "two_stage": "#2f855a", "one_stage": "#c05621"}
PANELS = {
    "lm_loss": "LM loss, held-out ShareGPT",
    "accepted": "expected tokens per step, held-out ShareGPT",
}
# Of the model and the heads in the package, as every run prints at step 0.
BEFORE = {"lm_loss": 1.731, "accepted": 2.04}


def main(report: Path, picture: Path) -> None:
    """Reads the curves, writes the picture."""
    lone = {row["run"].removesuffix("_long"): row for row in json.loads(report.read_text())["lone"]}
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 3.2), layout="constrained")
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for name, colour in COLOURS.items():
            curve = lone[name]["curve"]
            steps, values = [row["step"] for row in curve], [row[key] for row in curve]
            axes.plot(steps, values, color=colour, marker=".", label=name)
        axes.axhline(BEFORE[key], color=GREY, linewidth=0.8, linestyle=":", label="before")
        axes.set_title(title, color=GREY, fontsize="medium")
        axes.set_xlabel("steps of 1024 tokens", color=GREY)
        axes.tick_params(colors=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(GREY)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=4, frameon=False, labelcolor=GREY
    )
    figure.savefig(picture, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main(HERE / "smollm2_controls.json", HERE.parent / "controls.svg")
