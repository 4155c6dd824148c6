"""`--compare`: Medusa beside plain decoding of the same prompts, measured in the same run."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

from infer import display
from infer.answers import Job
from infer.totals import Totals, totals
from infer.turns import median_run, take_turns
from medusa_jax import Generation, MedusaLM

_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Answers to the same prompts without and with Medusa.

    Attributes:
      plain: autoregressive answers.
      medusa: Medusa's answers.
      batch_size: rows of a batch share their seconds.
    """

    plain: list[Generation]
    medusa: list[Generation]
    batch_size: int

    @property
    def different(self) -> list[int]:
        """Indices of the prompts whose two answers are not the same."""
        pairs = zip(self.plain, self.medusa, strict=True)
        return [i for i, (a, m) in enumerate(pairs) if a.token_ids != m.token_ids]

    def totals(self) -> tuple[Totals, Totals]:
        """Of plain decoding and of Medusa."""
        return totals(self.plain, self.batch_size), totals(self.medusa, self.batch_size)


def to_row(plain: Generation, medusa: Generation) -> dict[str, Any]:
    """A row of `--output`: Medusa's, with the plain answer to the same prompt inside."""
    other = dataclasses.asdict(plain)
    del other["prompt"]
    return dataclasses.asdict(medusa) | {"autoregressive": other}


def from_rows(rows: Sequence[dict[str, Any]], batch_size: int) -> Comparison:
    """The comparison that rows of `to_row` hold."""
    plain, medusa = [], []
    for row in rows:
        own = {key: value for key, value in row.items() if key != "autoregressive"}
        plain.append(Generation(prompt=row["prompt"], **row["autoregressive"]))
        medusa.append(Generation(**own))
    return Comparison(plain, medusa, batch_size)


def compare(
    lm: MedusaLM, job: Job, show: Callable[[int], Generation] | None
) -> Iterator[list[dict[str, Any]]]:
    """Measures both ways of decoding, batch by batch, and yields each batch's rows.

    A single batch is decoded several times and its median counts; of more batches each is decoded
    once. The first batch is decoded once more by each side, to compile and to warm up.

    Args:
      lm: a model with heads.
      job: the prompts.
      show: streams Medusa's answer to a prompt's number before it is measured; None: nothing is
        shown.
    """
    sides = [partial(job.answer, lm.with_tree("chain:0")), partial(job.answer, lm)]
    rounds = _ROUNDS if len(job.prompts) <= job.batch_size else 1
    batches = job.batches()
    bar = display.progress_bar()
    task = bar.add_task("Comparing", total=2 * rounds * len(batches))
    for batch in batches:
        shown = [show(number) for number in batch] if show else []
        with bar:  # not while a text is streamed
            warm_ups: list[list[Generation]] = [[], shown]
            if batch is batches[0]:
                warm_ups = [warm or side(batch) for side, warm in zip(sides, warm_ups, strict=True)]
            advance = partial(bar.update, task, advance=1, refresh=True)
            runs = take_turns(sides, [batch], rounds, advance)
        plain, medusa = (
            _medians([warm, *(answers for (answers,) in own)])
            for warm, own in zip(warm_ups, runs, strict=True)
        )
        yield [to_row(p, m) for p, m in zip(plain, medusa, strict=True)]


def _medians(runs: list[list[Generation]]) -> list[Generation]:
    """Each prompt's median run; the first list is the warm-up, which may be empty.

    Compilation is summed over all runs, as it happens in whichever comes first.
    """
    medians = []
    for warm_up, *timed in zip_longest(*runs):
        median = median_run(timed, lambda run: run.decode_seconds)
        compiled = sum(run.compile_seconds for run in (warm_up, *timed) if run)
        medians.append(dataclasses.replace(median, compile_seconds=compiled))
    return medians
