"""Reports as tables on stdout."""

from collections.abc import Sequence
from typing import Any

from infer.bench.near_ties import NEAR
from medusa_jax.cli.console import make_console, print_table


def print_checkpoint(report: dict[str, Any]) -> None:
    """The rows of `measure_checkpoint`, one table per dtype, and whether all decoded the same."""
    columns = (
        *("decoder", "nodes", "tok/s", "tok/step", "step ms", "step cost", "x plain", "x torch"),
        *("prefill ms", "same"),
    )
    rows = report["rows"]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        title = _title(report, f"{dtype}, {{prompts}} prompts, medians of {{rounds}} rounds")
        _print(title, columns, [_checkpoint_row(row) for row in rows if row["dtype"] == dtype])
    _print_lines(
        "tok/s: without the prefill. step cost: step time over that of plain decoding. x: "
        "speed over plain (autoregressive) decoding and over transformers on torch. same: tokens "
        "as plain decoding gives, or how many prompts differ (in bfloat16 near ties do).",
        *(f"Note: {note}." for note in report["notes"]),
        *_verdict(report["identical_float32"]),
        *(_verified(row) for row in rows if "verify" in row),
    )


def print_batches(report: dict[str, Any]) -> None:
    """The rows of `measure_batches`."""
    columns = ("decoder", "batches", "tokens", "tok/s", "x first", "same")
    rows = [
        [
            row["tree"] or row["decoder"],
            row["batches"],
            str(row["num_new_tokens"]),
            f"{row['tokens_per_second']:.1f}",
            _times(row["vs_first"]),
            _same(row["different_prompts"]),
        ]
        for row in report["rows"]
    ]
    title = "{dtype}, {batch_size} rows, medians of {rounds} rounds"
    _print(_title(report, title), columns, rows)
    _print_lines(
        "tok/s: with the prefill, without compiling. same: tokens as the first way gives, or how "
        "many prompts differ.",
        *(f"Note: {note}." for note in report["notes"]),
    )


def print_shape(report: dict[str, Any]) -> None:
    """The rows of `measure_shape`."""
    columns = (
        *("decoder", "nodes", "heads", "dtype", "rows", "context", "prefill ms", "step ms"),
        *("step cost", "GB/s", "of a copy", "tok/step", "tok/s"),
    )
    rows = [_shape_row(row) for row in report["rows"]]
    settings = report["settings"]
    _print(_title(report, f"{settings['shape']}, medians of {{rounds}} rounds"), columns, rows)
    copy = report["copy"]
    _print_lines(
        f"A copy: {copy['bytes'] / 2**20:.0f} MiB read and written at "
        f"{copy['bytes_per_second'] / 1e9:.1f} GB/s. prefill ms: of one row.",
        "GB/s: of weights, and of the cache what attention reads: its tokens where there is a "
        "kernel, else all slots.",
        "tok/step: drawn, as heads of middling quality are accepted. tok/s: of all rows.",
        *(f"Note: {note}." for note in report["notes"]),
    )


def print_sampling(report: dict[str, Any]) -> None:
    """The rows of `measure_sampling`."""
    settings = report["settings"]
    columns = (
        "temperature",
        "drafts know the noise",
        "tok/step",
        "95 %",
        "of greedy",
        "95 %",
        "same",
    )
    title = _title(report, f"{settings['tree']}, {settings['dtype']}, {{prompts}} prompts")
    _print(title, columns, [_sampling_row(row) for row in report["rows"]])
    _print_lines(
        "tok/step: tokens per step, with bootstrap intervals over prompts. of greedy: over that of "
        "temperature 0. same: tokens as plain decoding gives with the same seed, or how many "
        "answers part from them.",
        _ties(report["rows"]),
    )


def _ties(rows: Sequence[dict[str, Any]]) -> str:
    partings = [parting for row in rows for parting in row["partings"]]
    near = sum(parting["near_tie"] for parting in partings)
    tokens = sum(sum(row["tokens"]) for row in rows)
    return (
        f"{len(partings)} answers part in {tokens} tokens, {near} of them where two tokens are "
        f"less than {NEAR:g} of a logit apart."
    )


def _sampling_row(row: dict[str, Any]) -> list[str]:
    different = len(row["partings"])
    return [
        f"{row['temperature']:g}",
        "yes" if row["noise_in_drafts"] else "no",
        f"{row['tokens_per_step']:.3f}",
        _interval(row["interval"]),
        f"{row['vs_greedy']:.3f}" if "vs_greedy" in row else "",
        _interval(row["vs_greedy_interval"]) if "vs_greedy" in row else "",
        "yes" if not different else f"no ({different})",
    ]


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _checkpoint_row(row: dict[str, Any]) -> list[str]:
    return [
        row["tree"] or row["decoder"],
        str(row["nodes"]),
        f"{row['tokens_per_second']:.1f}",
        f"{row['tokens_per_step']:.2f}",
        f"{row['step_ms']:.2f}",
        _times(row["step_overhead"]),
        _times(row["speedup_vs_autoregressive"]),
        _times(row["speedup_vs_transformers"]),
        f"{row['prefill_ms']:.1f}",
        _same(row["different_prompts"]),
    ]


def _verified(row: dict[str, Any]) -> str:
    v = row["verify"]
    return (
        f"{row['tree'] or row['decoder']}, {row['dtype']}: {v['other_choices']} of "
        f"{v['positions']} tokens are not the base model's choice in float32, whose logit is at "
        f"most {v['largest_gap']:.2g} higher."
    )


def _shape_row(row: dict[str, Any]) -> list[str]:
    return [
        row["tree"] or row["decoder"],
        str(row["nodes"]),
        str(row["heads_used"]),
        row["dtype"],
        str(row["batch_size"]),
        str(row["context"]),
        f"{row['prefill_ms']:.1f}",
        f"{row['step_ms']:.3f}",
        _times(row["step_overhead"]),
        f"{row['bytes_per_second'] / 1e9:.1f}",
        f"{100 * row['copy_fraction']:.0f}%",
        f"{row['tokens_per_step']:.2f}",
        f"{row['tokens_per_second']:.1f}",
    ]


def _same(different_prompts: list[int]) -> str:
    return f"no ({len(different_prompts)})" if different_prompts else "yes"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _verdict(identical: bool | None) -> list[str]:
    if identical is None:
        return []
    return [f"Identical float32 tokens from every decoder: {'yes' if identical else 'no'}"]


def _title(report: dict[str, Any], text: str) -> str:
    where = f"{report['device']['kind']} ({report['cpu']}, {report['cores']} cores)"
    return f"{text.format(**report['settings'])}, on {where}"


def _print(title: str, columns: Sequence[str], rows: list[list[str]]) -> None:
    print_table(title, columns, rows, name="decoder")
    make_console().print()


def _print_lines(*lines: str) -> None:
    console = make_console()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
