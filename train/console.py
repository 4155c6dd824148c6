"""What a run says while it trains and when it ends, keeping training and held-out data apart.

Figures of the training data flatter the heads, which come to know it; those of held-out data say
what decoding will give.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medusa_jax.cli.console import make_console
from train.distributed import is_first_process
from train.ranking import TOLERANCE

_LOSS = {
    "medusa1": "MEDUSA-1 loss",
    "medusa2": "MEDUSA-2 loss",
    "self_distill": "self-distillation loss",
}
_SHOWN = (
    ("LM loss", "lm_loss", ".3f"),
    ("KL to the original", "kl", "z.4f"),
    ("head losses", "head_loss", ".2f"),
    ("top-1", "head_top1", ".2f"),
    ("tokens/step", "accepted", ".2f"),
)


@contextlib.contextmanager
def progress(total: int, objective: str, done: int) -> Iterator[Callable[..., None]]:
    """A progress bar of the first process, with a line for whatever was measured.

    Args:
      total: steps of the run.
      objective: `config.objective`.
      done: steps done by earlier runs.

    Yields:
      What to call after a step, with its number, its row of `metrics.jsonl` and the means over the
      held-out data; either may be empty.
    """
    columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(), disable=not is_first_process()) as bar:
        task = bar.add_task("", total=total, completed=done)

        def show(line: str) -> None:
            if is_first_process():
                bar.console.print(line, soft_wrap=True, markup=False)

        def advance(step: int, row: Mapping[str, Any], held_out: Mapping[str, Any]) -> None:
            bar.update(task, completed=step)
            if row:
                show(training_line(step, row, objective))
            if held_out:
                show(held_out_line(step, held_out))

        yield advance


def training_line(step: int, row: Mapping[str, Any], objective: str) -> str:
    """A step's batch in one line: the loss that is minimised, and what it is made of.

    Args:
      step: steps done.
      row: of `metrics.jsonl`; what it lacks is left out.
      objective: `config.objective`.
    """
    return _line("training", step, ((_LOSS[objective], "loss", ".3f"), *_SHOWN), row)


def held_out_line(step: int, report: Mapping[str, Any]) -> str:
    """An evaluation in one line.

    Args:
      step: steps done.
      report: means over the held-out data, of `medusa_jax.objectives.metrics.metrics`.
    """
    return _line("held out", step, _SHOWN, report)


def _line(split: str, step: int, shown: Any, values: Mapping[str, Any]) -> str:
    parts = [
        " ".join([label, *(format(float(x), digits) for x in np.atleast_1d(values[name]))])
        for label, name, digits in shown
        if name in values
    ]
    return " | ".join([split, f"step {step}", *parts])


def closing_lines(
    last: int, best: int | None, metrics: Mapping[int, Mapping[str, float]], tree: str
) -> list[str]:
    """What decoding with a finished run will give, and which checkpoint is the best.

    Args:
      last: the last step.
      best: the best checkpoint, if any has been evaluated.
      metrics: `Checkpoints.metrics` of both.
      tree: `config.tree`.
    """
    if "tokens_per_step" not in metrics[last]:
        return [f"step {last} was not measured on held-out data: see config.held_out"]
    lines = [
        f"held-out data: {metrics[last]['tokens_per_step']:.2f} tokens per decoding step expected "
        f"with the tree {tree} after step {last}; plain decoding gives 1.00"
    ]
    if metrics[last]["score"] < 0:
        rise = metrics[last]["base_loss"] - metrics[last]["reference"]
        lines.append(
            f"quality lost: the base head's held-out loss has risen by {rise:.3f} nats per token "
            f"since the start, more than {TOLERANCE:g}"
        )
    if best is not None and best != last:
        keeps = metrics[best]["score"] >= 0
        why = f"fastest within {TOLERANCE:g} nats" if keeps else "none is within, this one closest"
        lines.append(
            f"best checkpoint: step {best}, {metrics[best]['tokens_per_step']:.2f} tokens per step "
            f"({why}); `python -m train.export --step {best} --workdir ... --output ...` exports it"
        )
    return lines
