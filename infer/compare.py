"""`--compare`: Medusa and plain decoding of the same prompts, measured in the same run."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from infer import display
from infer.answers import Job
from infer.totals import Totals, totals
from infer.turns import MOST_ROUNDS, median_interval, median_run, until_steady
from medusa_jax import Generation, MedusaLM
from medusa_jax.decoding.runtime import Clock
from medusa_jax.tree.build import Tree

_COUNTS = ("num_new_tokens", "num_steps")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """Answers to a batch, and the seconds that decoding all of them took."""

    answers: list[Generation]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return sum(r.num_new_tokens for r in self.answers) / max(self.seconds, 1e-9)


Pair = tuple[Run, Run]  # without and with Medusa


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Answers to the same prompts without and with Medusa.

    Attributes:
      plain: autoregressive answers.
      medusa: Medusa's answers.
      seconds: of decoding, plain and Medusa's.
      batches: how many batches they were decoded in.
      speedups: of every round of the only batch, or of every batch.
      wide: nodes of a larger tree, and Medusa's tokens per step in answers with it; None: there
        are no such answers.
    """

    plain: list[Generation]
    medusa: list[Generation]
    seconds: tuple[float, float]
    batches: int
    speedups: list[float]
    wide: tuple[int, float] | None = None

    @property
    def different(self) -> list[int]:
        """Indices of the prompts whose two answers are not the same."""
        pairs = zip(self.plain, self.medusa, strict=True)
        return [i for i, (a, m) in enumerate(pairs) if a.token_ids != m.token_ids]

    def totals(self) -> tuple[Totals, Totals]:
        """The sums of plain decoding and of Medusa."""
        plain, medusa = (Clock(decode=seconds) for seconds in self.seconds)
        return totals(self.plain, plain), totals(self.medusa, medusa)


def speedup(pair: Pair) -> float:
    """Medusa's tokens per second over those of plain decoding."""
    plain, medusa = pair
    return medusa.tokens_per_second / max(plain.tokens_per_second, 1e-9)


def from_rows(rows: Mapping[int, Row]) -> Comparison:
    """The comparison that rows of `compare` hold."""
    plain, medusa, batches, wide = [], [], {}, []
    for index in sorted(rows):
        row = dict(rows[index])
        other, measured = row.pop("autoregressive"), row.pop("measured")
        plain.append(Generation(prompt=row["prompt"], **other))
        medusa.append(Generation(**row))
        batches[measured["batch"]] = measured
        wide += [measured["wide"]] if measured["wide"] else []
    own, other = zip(*(batch["seconds"] for batch in batches.values()), strict=True)
    return Comparison(
        plain,
        medusa,
        (sum(own), sum(other)),
        len(batches),
        [value for batch in batches.values() for value in batch["speedups"]],
        _sum_wide(wide),
    )


def _sum_wide(wide: Sequence[Mapping[str, int]]) -> tuple[int, float] | None:
    if not wide:
        return None
    tokens, steps = (sum(row[key] for row in wide) for key in _COUNTS)
    return wide[0]["nodes"], tokens / max(steps, 1)


def compare(
    lm: MedusaLM, job: Job, show: Callable[[int], Generation] | None, wide: Tree | None
) -> Iterator[dict[int, Row]]:
    """Measures both ways of decoding, batch by batch, and yields each batch's rows.

    Both sides decode the first batch once, to compile and to warm up. Then a single batch is
    decoded by both in turns until their ratio is steady, and the round with the median ratio
    counts; several batches are decoded once each.

    Args:
      lm: a model with heads.
      job: the prompts.
      show: streams Medusa's answer to the prompt of an index before it is measured; None: nothing
        is shown.
      wide: a larger tree, whose steps are counted in the first batch.
    """
    sides = (lm.with_tree("chain:0"), lm)
    batches = job.batches()
    most = MOST_ROUNDS if len(job.prompts) <= job.batch_size else 1
    bar = display.progress_bar()
    task = bar.add_task("Comparing", total=most * len(batches), remark="")

    def advance(speedups: Sequence[float]) -> None:
        bar.update(task, advance=1, refresh=True, remark=in_words(speedups))

    for batch in batches:
        shown = Run([show(index) for index in batch] if show else [], 0.0)
        warm_up, larger = (Run([], 0.0), shown), [None] * len(batch)
        with bar:  # not while a text is streamed
            if batch is batches[0]:
                medusa = shown if show else _run(lm, job, batch)
                warm_up = (_run(sides[0], job, batch), medusa)
                larger = _count_steps(lm, job, batch, wide) if wide else larger
            rounds = until_steady(partial(_both, sides, job, batch), speedup, advance, most)
        yield _rows(batch, warm_up, rounds, larger)


def in_words(speedups: Sequence[float]) -> str:
    """The median speed-up, and where it lies with some confidence."""
    low, high = median_interval(speedups)
    interval = f" ({low:.2f}x to {high:.2f}x)" if len(speedups) > 1 else ""
    return f"{median_run(speedups, float):.2f}x{interval}"


def _both(sides: Sequence[MedusaLM], job: Job, batch: Sequence[int]) -> Pair:
    plain, medusa = (_run(side, job, batch) for side in sides)
    return plain, medusa


def _run(lm: MedusaLM, job: Job, batch: Sequence[int]) -> Run:
    clock = Clock()
    by_index = dict(job.answer(lm, batch, clock))
    return Run([by_index[index] for index in batch], clock.decode)


def _count_steps(lm: MedusaLM, job: Job, batch: Sequence[int], tree: Tree) -> list[Row]:
    answers = _run(lm.with_tree(tree), job, batch).answers
    return [{"nodes": tree.R} | {key: getattr(r, key) for key in _COUNTS} for r in answers]


def _rows(
    batch: Sequence[int], warm_up: Pair, rounds: Sequence[Pair], larger: Sequence[Row | None]
) -> dict[int, Row]:
    """Rows of `--output`: those of the round with the median ratio, and how it was measured."""
    median = median_run(rounds, speedup)
    plain, medusa = (
        _with_compilation(median[side].answers, [both[side].answers for both in (warm_up, *rounds)])
        for side in (0, 1)
    )
    measured = {
        "batch": batch[0],
        "seconds": [run.seconds for run in median],
        "speedups": [speedup(both) for both in rounds],
    }
    return {
        index: to_row(p, m, measured | {"wide": w})
        for index, p, m, w in zip(batch, plain, medusa, larger, strict=True)
    }


def to_row(plain: Generation, medusa: Generation, measured: Row) -> Row:
    """Medusa's row, with the plain answer to the same prompt and how it was measured."""
    other = dataclasses.asdict(plain)
    del other["prompt"]
    return dataclasses.asdict(medusa) | {"autoregressive": other, "measured": measured}


def _with_compilation(
    median: Sequence[Generation], runs: Sequence[Sequence[Generation]]
) -> list[Generation]:
    """The answers with compilation summed over all runs: one run has it, and some may be empty."""
    seconds = [sum(r.compile_seconds for r in row if r) for row in zip_longest(*runs)]
    pairs = zip(median, seconds, strict=True)
    return [dataclasses.replace(result, compile_seconds=total) for result, total in pairs]
