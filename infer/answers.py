"""Answers the prompts of a command line: streamed, printed, or with a progress bar alone."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence

from infer import display
from infer.totals import Tally
from medusa_jax import Generation, GenerationConfig, MedusaLM, UserError, generate_as_done, stream
from medusa_jax.chat import Encoded, Prompt
from medusa_jax.cli_console import note
from medusa_jax.decoding.generate import encode_prompt

# The answer to a prompt, with the prompt's index, counted from 0.
Answer = tuple[int, Generation]


@dataclasses.dataclass(frozen=True)
class Job:
    """What to answer, and how.

    Attributes:
      prompts: at least one.
      batch_size: prompts decoded at the same time.
      config: the options of decoding.
      done: indices of the prompts that need no answer any more.
    """

    prompts: Sequence[Encoded]
    batch_size: int
    config: GenerationConfig
    done: Collection[int] = ()

    @property
    def pending(self) -> list[int]:
        """Indices of the prompts that need an answer."""
        return [index for index in range(len(self.prompts)) if index not in self.done]

    def batches(self) -> list[list[int]]:
        """The pending ones, batch by batch."""
        size, pending = self.batch_size, self.pending
        return [pending[start : start + size] for start in range(0, len(pending), size)]

    def answer(self, lm: MedusaLM, indices: Sequence[int]) -> Iterator[Answer]:
        """Answers some prompts, at least one, in the order in which they are done.

        A batch that is not full is filled with repeated rows, which cost no further step: so it
        has the shapes that are compiled already, whichever run decodes it.
        """
        rows = min(self.batch_size, len(self.prompts))
        numbers = [*indices, *[indices[-1]] * (rows - len(indices))]
        answers = generate_as_done(
            lm,
            [self.prompts[number] for number in numbers],
            batch_size=rows,
            numbers=numbers,
            **vars(self.config),
        )
        return ((indices[i], result) for i, result in answers if i < len(indices))


def encode_prompts(lm: MedusaLM, prompts: Sequence[Prompt], chat: bool | None) -> list[Encoded]:
    """Tokenizes all prompts, so that a bad one is found before any answer is shown.

    Raises:
      UserError: names the prompt, when there are several.
    """
    encoded = []
    for number, prompt in enumerate(prompts, start=1):
        try:
            encoded.append(encode_prompt(lm, prompt, chat))
        except UserError as error:
            which = f"prompt {number}: " if len(prompts) > 1 else ""
            raise UserError(f"{which}{error}") from None
    return encoded


def stream_answers(lm: MedusaLM, job: Job) -> Iterator[Answer]:
    """Prints answers step by step, one prompt at a time, and yields each when it is complete."""
    for index in job.pending:
        yield index, stream_answer(lm, job, index)


def stream_answer(lm: MedusaLM, job: Job, index: int) -> Generation:
    """Prints the answer to one prompt step by step."""
    display.announce_prompt(index + 1, len(job.prompts))
    printer = display.StepPrinter()
    if printer.coloured and index == job.pending[0]:
        note("every change of colour is one step")
    events = stream(lm, job.prompts[index], numbers=[index], **vars(job.config))
    with display.waiting("Running the prompt"):  # and compiling, the first time
        first = next(events)
    for event in itertools.chain([first], events):
        printer.add(event.text)
        if event.result is not None:
            printer.finish(event.result.text)
            return event.result
    raise AssertionError("a stream ends with its result")


def print_answers(lm: MedusaLM, job: Job) -> Iterator[Answer]:
    """Yields answers as they are done, and prints each once those before it are printed."""
    waiting: dict[int, Generation] = {}
    pending = iter(job.pending)
    following = next(pending, None)
    for index, result in job.answer(lm, job.pending):
        waiting[index] = result
        while following in waiting:
            show_answer(waiting.pop(following), following, len(job.prompts))
            following = next(pending, None)
        yield index, result


def show_answer(result: Generation, index: int, total: int) -> None:
    """Prints an answer that is complete, to prompt `index` of `total`."""
    display.announce_prompt(index + 1, total)
    display.print_text(result.text)


def collect_answers(lm: MedusaLM, job: Job) -> Iterator[Answer]:
    """Yields answers as they are done, and prints nothing but a progress bar with their speed."""
    if not job.pending:
        return
    tally = Tally(job.batch_size)
    with display.progress_bar() as bar:
        task = bar.add_task("Answering", total=len(job.prompts), completed=len(job.done), remark="")
        for index, result in job.answer(lm, job.pending):
            tally.add(result)
            bar.update(task, advance=1, refresh=True, remark=tally.totals().rates())
            yield index, result
