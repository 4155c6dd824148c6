"""The report of `--compare`: a table, and in words what is gained in steps and in time."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infer.compare import Comparison
from infer.totals import Totals
from infer.turns import CONFIDENCE, median_interval
from medusa_jax import MedusaLM


def report(lm: MedusaLM, comparison: Comparison, *, rule: str, plainly: bool) -> RenderableType:
    """Everything that `--compare` prints below the answers.

    Args:
      lm: the model that was measured.
      comparison: both ways of decoding.
      rule: the acceptance: "greedy", "lossless" or "typical".
      plainly: `--tree=auto` began without a tree.
    """
    plain, medusa = comparison.totals()
    sentences = [
        time_sentence(comparison, lm.platform),
        steps_sentence(plain, medusa),
        *wide_sentences(comparison),
    ]
    if plainly:
        sentences.insert(0, "No tree was expected to be faster than plain decoding here.")
    if comparison.different:
        sentences.insert(0, difference_sentence(comparison, lm.dtype, rule=rule))
    return Group(Text(), _table(comparison), *(Text(sentence) for sentence in sentences))


def _table(comparison: Comparison) -> Table:
    plain, medusa = comparison.totals()
    table = Table("")
    table.add_column("autoregressive", justify="right")
    table.add_column("Medusa", justify="right", style="bold")
    table.add_row("same text", "", _same(comparison))
    table.add_row("tokens", f"{plain.tokens}", f"{medusa.tokens}")
    table.add_row("steps", f"{plain.steps}", f"{medusa.steps}")
    for name, digits in (("tokens_per_step", 2), ("seconds", 2), ("tokens_per_second", 1)):
        values = [f"{getattr(totals, name):.{digits}f}" for totals in (plain, medusa)]
        label = {"tokens_per_step": "tokens/step", "tokens_per_second": "tokens/s"}.get(name, name)
        table.add_row(label, *values)
    table.add_row("speedup", "1.00x", f"{_speedup(comparison):.2f}x")
    return table


def _same(comparison: Comparison) -> str:
    total, different = len(comparison.medusa), len(comparison.different)
    if total == 1:
        return "no" if different else "yes"
    return f"no, {different} of {total} differ" if different else f"yes, all {total}"


def steps_sentence(plain: Totals, medusa: Totals) -> str:
    """What is gained in steps."""
    ratio = medusa.tokens_per_step / max(plain.tokens_per_step, 1e-9)
    gain = (
        f"In steps: {medusa.steps} passes through the model instead of {plain.steps}, "
        f"{ratio:.2f}x the tokens per pass"
    )
    return f"{gain}." if ratio > 1 else f"{gain}: nothing is gained."


def wide_sentences(comparison: Comparison) -> list[str]:
    """What a larger tree would gain in steps: one sentence, none when it was not measured."""
    if comparison.wide is None:
        return []
    nodes, tokens_per_step = comparison.wide
    return [
        f"With a tree of {nodes} nodes: {tokens_per_step:.2f} tokens per step. A large accelerator "
        "can turn most of that into speed: with a 7B on an H100, a pass over such a tree takes 1.2 "
        "times as long as one over one token."
    ]


def time_sentence(comparison: Comparison, platform: str) -> str:
    """What is gained in time where it was measured."""
    plain, medusa = comparison.totals()
    factor = _speedup(comparison)
    # Within a few per cent nobody is faster: two runs of the same side differ as much.
    verdict = ", so plain decoding is the faster one here" if factor < 0.95 else ""
    return (
        f"In time: on this machine's {platform.upper()}, measured just now, "
        f"{medusa.tokens_per_second:.1f} tokens/s with Medusa ({medusa.tokens_per_step:.2f} "
        f"tokens/step) and {plain.tokens_per_second:.1f} without, a speedup of {factor:.2f}x"
        f"{_spread(comparison)}{verdict}."
    )


def _speedup(comparison: Comparison) -> float:
    plain, medusa = comparison.totals()
    return medusa.tokens_per_second / max(plain.tokens_per_second, 1e-9)


def _spread(comparison: Comparison) -> str:
    speedups = comparison.speedups
    if len(speedups) == 1:
        return ""
    if comparison.batches > 1:
        batches = f"from {min(speedups):.2f}x to {max(speedups):.2f}x in the single batches"
        return f" ({batches})"
    low, high = median_interval(speedups)
    sure = f"{low:.2f}x to {high:.2f}x with {CONFIDENCE:.0%} confidence"
    return f" (the median of {len(speedups)} rounds; {sure})"


def difference_sentence(comparison: Comparison, dtype: str, *, rule: str) -> str:
    """Where the texts part, and why they may."""
    first = comparison.different[0]
    plain, medusa = comparison.plain[first].token_ids, comparison.medusa[first].token_ids
    pairs = enumerate(zip(plain, medusa, strict=False))
    position = next((i for i, (a, m) in pairs if a != m), min(len(plain), len(medusa)))
    where = f"prompt {first + 1}, " if len(comparison.medusa) > 1 else ""
    if rule == "typical":
        why = "typical acceptance takes plausible tokens, where plain decoding draws one"
    elif dtype != "float32":
        why = f"in {dtype} two tokens can be nearly tied, and rounding decides"
    else:
        why = "in float32 only an almost exact tie of two tokens explains that"
    return f"The texts differ from {where}token {position + 1} on: {why}."
