"""A plan as a table for people."""

from typing import Any

from rich.table import Table

from medusa_jax.cli.console import make_console
from medusa_jax.plan.estimate import Plan

# Attribute, what to call it, unit: bytes, a number, or milliseconds.
_ROWS = (
    ("argument_bytes", "arguments", "bytes"),
    ("temp_bytes", "temporaries", "bytes"),
    ("total_bytes", "total", "bytes"),
    ("flops", "operations of products", "number"),
    ("hbm_traffic_bytes", "memory traffic (estimate)", "bytes"),
    ("step_cycles_compiler", "cycles (the compiler's estimate)", "number"),
    ("step_ms_roofline", "at least (roofline, estimate)", "ms"),
    ("overhead", "over a plain step (estimate)", "ratio"),
    ("tokens_per_second", "tokens per second, all rows (estimate)", "number"),
    ("tokens_per_second_per_device", "tokens per second and device (estimate)", "number"),
    ("mfu_bound", "model FLOPs utilisation, at most (estimate)", "share"),
)


def show(plan: Plan, title: str) -> None:
    """Prints a plan on stdout: costs of each device, unless a row says otherwise.

    Args:
      plan: of any kind.
      title: what was planned.
    """
    console = make_console()
    memory = f"{plan.hbm_bytes / 1e9:.1f} GB each"
    devices = f"{plan.num_devices} x {plan.device_kind} ({plan.topology}), {memory}"
    if plan.num_devices > 1:
        devices += "; what follows is for each"
    table = Table(title=f"{title}\n{devices}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("fits", "yes" if plan.fits else "no")
    for name, text, unit in _ROWS:
        value = getattr(plan, name, None)
        if value is not None:
            table.add_row(text, _written(value, unit))
    for kind, size in (plan.collective_bytes or {}).items():
        if size:
            table.add_row(f"{kind}, results", _written(size, "bytes"))
    table.add_row("compiled in", f"{plan.compile_seconds:.0f} s")
    console.print(table)
    for line in plan.takes_space:
        console.print(line, soft_wrap=True, markup=False)
    if plan.change:
        console.print(plan.change, soft_wrap=True, markup=False)


def _written(value: Any, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e9:,.3f} GB"
    if unit == "ms":
        return f"{value:,.3f} ms"
    if unit == "ratio":
        return f"{value:.2f}x"
    if unit == "share":
        return f"{100 * value:.0f} %"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.2f} {letter}"
    return f"{value:,.0f}"
