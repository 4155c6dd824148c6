"""The report's rows: what was measured of every prompt, and what that says of every run."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from train.reporting.figures import FIGURES, Figure, Prompts
from train.reporting.runs import Runs
from train.reporting.statistics import Estimate


class Measurement(NamedTuple):
    """What was measured of one model and its heads.

    Attributes:
      prompts: rows of every set.
      head_top1: accuracy of each head over the answers; empty without heads.
    """

    prompts: Prompts
    head_top1: list[float]


@dataclasses.dataclass
class Measured:
    """Everything measured of a run, or of the model that all started from.

    Attributes:
      name: in the report.
      runs: whose folders were measured; None: the model itself.
      each: the measurement of each folder.
    """

    name: str
    runs: Runs | None = None
    each: list[Measurement] = dataclasses.field(default_factory=list)

    @property
    def prompts(self) -> list[Prompts]:
        """The rows of each folder."""
        return [own.prompts for own in self.each]


def figures_of(measured: Measured) -> list[Figure]:
    """The figures for which there are prompts."""
    return [figure for figure in FIGURES if measured.prompts[0][figure.prompts]]


def make_rows(all_measured: Sequence[Measured], references: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each.

    Args:
      all_measured: with the same prompts.
      references: names of those that all others are compared with.

    Returns:
      JSON values: "run"; every figure of `figures_of`, and its 95 % interval in "intervals";
      "versus": by reference and figure {"ratio" or "difference", "interval", "verdict"};
      "head_top1" (by head, over the answers) where there are heads; "members", {"folder", "seed",
      "medusa"} of each, and the other "settings" of all; "prompts", the rows of each member.
    """
    estimates = {
        measured.name: {
            figure.name: figure.estimate(measured.prompts, number)
            for figure in figures_of(measured)
        }
        for number, measured in enumerate(all_measured)
    }
    return [_row(measured, estimates, references) for measured in all_measured]


def _row(
    measured: Measured, estimates: dict[str, dict[str, Estimate]], references: Sequence[str]
) -> dict[str, Any]:
    own = estimates[measured.name]
    row: dict[str, Any] = {"run": measured.name}
    row |= {name: estimate.value for name, estimate in own.items()}
    row["intervals"] = {name: list(estimate.interval) for name, estimate in own.items()}
    row["versus"] = {
        reference: {
            figure.name: compared(figure, own[figure.name], estimates[reference][figure.name])
            for figure in figures_of(measured)
        }
        for reference in references
        if reference != measured.name
    }
    if measured.each[0].head_top1:
        row["head_top1"] = np.mean([own.head_top1 for own in measured.each], axis=0).tolist()
    if measured.runs is not None:
        row |= _provenance(measured.runs)
    return row | {"prompts": measured.prompts}


def compared(figure: Figure, own: Estimate, reference: Estimate) -> dict[str, Any]:
    """One figure of a run against a reference's, as JSON values."""
    comparison = own.versus(reference)
    name = "difference" if figure.scale == "difference" else "ratio"
    return {
        name: comparison.value,
        "interval": list(comparison.interval),
        "verdict": figure.verdict(comparison),
    }


def _provenance(runs: Runs) -> dict[str, Any]:
    members = [
        {"folder": str(folder), "seed": own.seed, "medusa": own.medusa}
        for folder, own in zip(runs.folders, runs.settings, strict=True)
    ]
    settings = dataclasses.asdict(runs.settings[0])
    return {
        "members": members,
        "settings": {k: v for k, v in settings.items() if k not in members[0]},
    }
