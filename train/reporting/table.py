"""The report for people: a table per figure, a line per run."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from medusa_jax.cli.console import make_console
from train.reporting.figures import FIGURES, Figure


def print_rows(rows: Sequence[dict[str, Any]], references: Sequence[str]) -> None:
    """Prints rows of `make_rows`, every interval in brackets; no line is cut."""
    for figure in FIGURES:
        if figure.name in rows[0]:
            table = _table(figure, rows, references)
            console = make_console()
            wide = console.measure(table, options=console.options.update(width=1000)).maximum
            console = make_console(width=max(console.width, wide))
            console.print(f"[bold]{figure.title}[/]")
            console.print(table)


def _table(figure: Figure, rows: Sequence[dict[str, Any]], references: Sequence[str]) -> Table:
    names = [name for reference in references for name in (f"vs {reference}", "")]
    # Text, as the brackets in a name are not markup.
    columns = [Column(Text(title)) for title in ("run", "", *names)]
    table = Table(*columns, box=SIMPLE_HEAD, show_edge=False)
    for row in rows:
        cells = [_with_interval(row[figure.name], row["intervals"][figure.name])]
        for reference in references:
            cells += _comparison(row["versus"].get(reference, {}).get(figure.name))
        table.add_row(*map(Text, (row["run"], *cells)))
    return table


def _comparison(found: dict[str, Any] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    is_ratio = "ratio" in found
    value = found["ratio"] if is_ratio else found["difference"]
    text = _with_interval(value, found["interval"], "x" if is_ratio else "", signed=not is_ratio)
    return text, found["verdict"] or ""


def _with_interval(
    value: float, interval: Sequence[float], unit: str = "", *, signed: bool = False
) -> str:
    form = "+.3f" if signed else ".3f"
    low, high = (f"{end:{form}}" for end in interval)
    return f"{value:{form}}{unit} [{low}, {high}]"
