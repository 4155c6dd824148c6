"""`--compare`: Medusa beside plain decoding of the same prompts, measured in the same run."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from infer import display
from infer.answers import Job
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

    def totals(self) -> tuple[display.Totals, display.Totals]:
        """Of plain decoding and of Medusa."""
        plain = display.totals(self.plain, self.batch_size)
        return plain, display.totals(self.medusa, self.batch_size)

    def rows(self) -> list[dict[str, Any]]:
        """Of `--output`: Medusa's, each with the plain answer to the same prompt."""
        rows = []
        for plain, medusa in zip(self.plain, self.medusa, strict=True):
            other = dataclasses.asdict(plain)
            del other["prompt"]
            rows.append(dataclasses.asdict(medusa) | {"autoregressive": other})
        return rows


def compare(lm: MedusaLM, job: Job, shown: Sequence[Generation]) -> Comparison:
    """Measures both ways of decoding.

    The sides take turns batch by batch, so that a busy moment of the machine hits both. One batch
    is decoded several times and its median counts; more batches are decoded once.

    Args:
      lm: a model with heads.
      job: the prompts.
      shown: Medusa's answers that have been streamed already, which compiled and warmed it up.
    """
    plain_lm = lm.with_tree("chain:0")
    first = dataclasses.replace(job, prompts=job.prompts[: job.batch_size])
    rounds = _ROUNDS if len(job.prompts) <= job.batch_size else 1
    warmups = len(first.prompts) * (1 if shown else 2)
    with display.progress_bar() as bar:
        task = bar.add_task("Comparing", total=warmups + 2 * rounds * len(job.prompts))
        run = _counter(lambda: bar.update(task, advance=1, refresh=True))
        plain_runs, medusa_runs = [list(run(plain_lm, first))], [list(shown or run(lm, first))]
        for _ in range(rounds):
            pairs = list(zip(run(plain_lm, job), run(lm, job), strict=True))
            plain_runs.append([plain for plain, _ in pairs])
            medusa_runs.append([medusa for _, medusa in pairs])
    return Comparison(_medians(plain_runs), _medians(medusa_runs), job.batch_size)


def _counter(advance: Callable[[], None]) -> Callable[[MedusaLM, Job], Iterator[Generation]]:
    def run(lm: MedusaLM, job: Job) -> Iterator[Generation]:
        for result in job.run(lm):
            advance()
            yield result

    return run


def _medians(runs: list[list[Generation]]) -> list[Generation]:
    """Each prompt's median run; the first list is the warm-up, perhaps of the first prompts only.

    Compilation is summed over all runs, as it happens in whichever comes first.
    """
    medians = []
    for warmup, *timed in zip_longest(*runs):
        median = sorted(timed, key=lambda run: run.decode_seconds)[len(timed) // 2]
        compiled = sum(run.compile_seconds for run in (warmup, *timed) if run)
        medians.append(dataclasses.replace(median, compile_seconds=compiled))
    return medians
