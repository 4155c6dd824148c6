"""Measures training on this machine: tokens per second, without compilation.

Heads alone (MEDUSA-1): our steps with the backbone run at every step ("streamed"), our steps on
hidden states that it wrote beforehand ("cached") and, if torch is installed, a straightforward
torch implementation: transformers' frozen backbone, heads as modules, AdamW. All train the same
heads on the same batch of random tokens, all of them labels, and take turns; medians over the
rounds are reported. Their first losses must agree.

  python -m train.benchmark --output cpu.json

Heads and backbone (MEDUSA-2): our steps, with the model FLOPs utilisation where the device's peak
is known. --shape uses random weights of a published shape instead of a model.

  python -m train.benchmark --shape llama-1b --objective medusa2 --dtype bfloat16 --batch_size 16 \\
    --seq_len 2048 --output llama-1b.json
"""

from typing import Any

from absl import flags
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from medusa_jax.cli.console import make_console
from medusa_jax.cli.model_flags import define_model
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.model_shapes import SHAPES
from train.bench.job import Job
from train.bench.measure import TOLERANCE, measure, num_advances

_MODEL = define_model()
_SHAPE = flags.DEFINE_enum(
    "shape", None, list(SHAPES), "Measure random weights of this shape instead of a real model."
)
_OBJECTIVE = flags.DEFINE_enum(
    "objective", "medusa1", ["medusa1", "medusa2"], "Train the heads alone, or the backbone too."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 2, "Sequences per step.", lower_bound=1)
_SEQ_LEN = flags.DEFINE_integer("seq_len", 512, "Tokens per sequence.", lower_bound=2)
_NUM_HEADS = flags.DEFINE_integer("num_heads", 4, "Medusa heads.", lower_bound=1)
_OWN_PROJECTION = flags.DEFINE_boolean(
    "own_projection",
    False,
    "Each head has its own vocabulary projection (format A); else all share the LM head (C).",
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Compute dtype; the torch side needs float32."
)
_REMAT = flags.DEFINE_boolean(
    "remat",
    None,
    "Compute layers again in the backward pass; default: with --objective medusa2.",
)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps per round.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds; medians are reported.", lower_bound=1)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file for all numbers, with device, versions, commit and command."
)


def main(argv: list[str]) -> None:
    """Measures, prints a table and writes the report."""
    del argv
    job = _job()
    target = None if _OUTPUT.value is None else check_output(_OUTPUT.value)
    setup_compilation_cache()
    around = environment("train.benchmark")
    columns = (TextColumn("measure"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=num_advances(job))
        report = around | measure(job, lambda: progress.advance(task))
    if target is not None:
        write_json(target, report)
    _print(report)
    if report["same_first_loss"] is False:
        raise UserError(
            f"the first losses differ by more than {TOLERANCE:g}: the sides do not do the same "
            "work, so that their speeds say nothing"
        )


def _job() -> Job:
    if _MODEL.value is not None and _SHAPE.value is not None:
        raise UserError("--model and --shape exclude each other: leave one out")
    if _SEQ_LEN.value < _NUM_HEADS.value + 2:
        raise UserError(
            f"--seq_len={_SEQ_LEN.value} has no label for head {_NUM_HEADS.value}: "
            f"--seq_len={_NUM_HEADS.value + 2} is the least"
        )
    return Job(
        model=_MODEL.value,
        shape=_SHAPE.value,
        objective=_OBJECTIVE.value,
        batch_size=_BATCH_SIZE.value,
        seq_len=_SEQ_LEN.value,
        num_heads=_NUM_HEADS.value,
        own_projection=_OWN_PROJECTION.value,
        dtype=_DTYPE.value,
        remat=_OBJECTIVE.value == "medusa2" if _REMAT.value is None else _REMAT.value,
        steps=_STEPS.value,
        rounds=_ROUNDS.value,
    )


def _print(report: dict[str, Any]) -> None:
    where = f"{report['device']['kind']} ({report['cpu']}, {report['cores']} cores)"
    settings = report["settings"]
    title = f"{settings['objective']}, medians of {settings['rounds']} rounds, on {where}"
    names = ("", "tok/s", "s/step", "TFLOP/s", "MFU", "x torch", "first loss", "last loss")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in report["rows"]:
        table.add_row(*_cells(row))
    console = make_console()
    console.print(table)
    if report["device_memory_bytes"] is not None:
        console.print(f"Device memory: {report['device_memory_bytes'] / 2**30:.2f} GiB at most")
    for note in report["notes"]:
        console.print(f"Note: {note}", markup=False, soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    flops, mfu, speedup = row["flops_per_second"], row["mfu"], row["speedup_vs_torch"]
    return [
        row["side"],
        f"{row['tokens_per_second']:.1f}",
        f"{row['seconds_per_step']:.3f}",
        "-" if flops is None else f"{flops / 1e12:.3f}",
        "-" if mfu is None else f"{100 * mfu:.1f}%",
        "-" if speedup is None else f"{speedup:.2f}",
        f"{row['first_loss']:.5f}",
        f"{row['last_loss']:.5f}",
    ]


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
