"""Answers the prompts of a command line: streamed, printed, or with a progress bar alone."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence

from infer import display
from infer.totals import running
from medusa_jax import Generation, GenerationConfig, MedusaLM, UserError, generate_as_done, stream
from medusa_jax.chat import Encoded, Prompt
from medusa_jax.cli.console import note, waiting
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.decoding.runtime import Clock

# An answer and its place. The first answer to prompt i has place i times the answers to each.
Answer = tuple[int, Generation]


@dataclasses.dataclass(frozen=True)
class Job:
    """What to answer, and how.

    Attributes:
      prompts: at least one.
      batch_size: answers decoded at the same time.
      config: the options of decoding.
      done: places of the answers that are there already.
    """

    prompts: Sequence[Encoded]
    batch_size: int
    config: GenerationConfig
    done: Collection[int] = ()

    @property
    def total(self) -> int:
        """Answers in all."""
        return len(self.prompts) * self.config.num_samples

    @property
    def rows(self) -> int:
        """The rows of a batch."""
        return min(self.batch_size, self.total)

    def place(self, index: int, result: Generation) -> int:
        """The place of an answer to prompt `index`, counted from 0."""
        return index * self.config.num_samples + result.sample

    @property
    def pending(self) -> list[int]:
        """Indices of the prompts that lack an answer."""
        places = (place for place in range(self.total) if place not in self.done)
        return list(dict.fromkeys(place // self.config.num_samples for place in places))

    def title(self, place: int) -> str:
        """What distinguishes an answer from the others, if there are others."""
        index, sample = divmod(place, self.config.num_samples)
        parts = {"prompt": (index, len(self.prompts)), "sample": (sample, self.config.num_samples)}
        several = [f"{k} {n + 1} of {total}" for k, (n, total) in parts.items() if total > 1]
        return ", ".join(several)

    def batches(self) -> list[list[int]]:
        """The pending prompts, batch by batch."""
        size, pending = self.batch_size, self.pending
        return [pending[start : start + size] for start in range(0, len(pending), size)]

    def answer(self, lm: MedusaLM, indices: Sequence[int], clock: Clock) -> Iterator[Answer]:
        """Gives some prompts the answers that they lack, in the order in which they are done."""
        if not indices:
            return
        prompts = [self.prompts[index] for index in indices]
        options = {"batch_size": self.rows, "numbers": indices, **vars(self.config)}
        for number, result in generate_as_done(lm, prompts, clock=clock, **options):
            place = self.place(indices[number], result)
            if place not in self.done:
                yield place, result


def begins_plainly(lm: MedusaLM, job: Job) -> bool:
    """Whether `tree=auto` expects no tree to be faster than plain decoding."""
    choice = display.first_choice(lm, job.config, job.rows, job.prompts)
    return choice is not None and choice.nodes == 1


def encode_prompts(
    lm: MedusaLM, prompts: Sequence[Prompt], chat: bool | None, max_context: int | None
) -> list[Encoded]:
    """Tokenizes all prompts, so that a bad one is found before any answer is shown.

    Raises:
      UserError: names the prompt, when there are several.
    """
    encoded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            encoded.append(encode_prompt(lm, prompt, chat, max_context))
        except UserError as error:
            which = f"prompt {number}: " if len(prompts) > 1 else ""
            raise UserError(f"{which}{error}") from None
    return encoded


def stream_answers(lm: MedusaLM, job: Job) -> Iterator[Answer]:
    """Prints answers step by step, one after the other, and yields each when it is complete."""
    for index in job.pending:
        for result in _stream_prompt(lm, job, index):
            place = job.place(index, result)
            if place not in job.done:
                yield place, result


def _stream_prompt(lm: MedusaLM, job: Job, index: int) -> Iterator[Generation]:
    """Prints the answers to one prompt step by step."""
    events = stream(lm, job.prompts[index], numbers=[index], **vars(job.config))
    with waiting("Running the prompt"):  # and compiling, the first time
        first = next(events)
    if index == job.pending[0] and display.StepPrinter().coloured:
        note("every change of colour is one step")
    samples = itertools.groupby(itertools.chain([first], events), lambda event: event.sample)
    for sample, answer in samples:
        display.announce(job.title(index * job.config.num_samples + sample))
        yield display.print_steps(answer)


def stream_answer(lm: MedusaLM, job: Job, index: int) -> Generation:
    """Prints the only answer to one prompt step by step."""
    (result,) = _stream_prompt(lm, job, index)
    return result


def print_answers(lm: MedusaLM, job: Job, clock: Clock) -> Iterator[Answer]:
    """Yields answers as they are done, and prints each once those before it are printed.

    Ctrl-C prints those that are done and had to wait.
    """
    waiting: dict[int, Generation] = {}
    following = 0
    try:
        for place, result in job.answer(lm, job.pending, clock):
            waiting[place] = result
            while following in waiting:
                show_answer(job, following, waiting.pop(following))
                following += 1
            yield place, result
    finally:
        for place in sorted(waiting):
            show_answer(job, place, waiting[place])


def show_answer(job: Job, place: int, result: Generation) -> None:
    """Prints an answer that is complete."""
    display.announce(job.title(place))
    display.print_text(result.text)


def collect_answers(lm: MedusaLM, job: Job, clock: Clock) -> Iterator[Answer]:
    """Yields answers as they are done, and prints nothing but a progress bar with their speed."""
    with display.progress_bar() as bar:
        task = bar.add_task("Answering", total=job.total, completed=len(job.done), remark="")
        for place, result in job.answer(lm, job.pending, clock):
            bar.update(task, advance=1, refresh=True, remark=running(clock))
            yield place, result
