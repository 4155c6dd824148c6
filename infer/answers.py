"""Answers the prompts of a command line: streamed, printed, or with a progress bar alone."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from infer import display
from medusa_jax import Generation, GenerationConfig, MedusaLM, UserError, generate, stream
from medusa_jax.chat import Encoded, Prompt
from medusa_jax.cli_console import note
from medusa_jax.decoding.generate import encode_prompt


@dataclasses.dataclass(frozen=True)
class Job:
    """What to answer, and how.

    Attributes:
      prompts: at least one.
      batch_size: prompts decoded at the same time.
      config: the options of decoding.
      done: the first so many prompts need no answer any more; a multiple of batch_size or all.
    """

    prompts: Sequence[Encoded]
    batch_size: int
    config: GenerationConfig
    done: int = 0

    def batches(self) -> list[range]:
        """Numbers of the prompts that are decoded together, batch by batch."""
        total = len(self.prompts)
        starts = range(self.done, total, self.batch_size)
        return [range(start, min(start + self.batch_size, total)) for start in starts]

    def answer(self, lm: MedusaLM, batch: range) -> list[Generation]:
        """Answers one batch.

        A last batch that is not full is filled with repeated rows, which cost no further step: so
        it has the shapes that are compiled already, whichever run decodes it.
        """
        rows = min(self.batch_size, len(self.prompts))
        numbers = [*batch, *[batch[0]] * (rows - len(batch))]
        results = generate(
            lm,
            [self.prompts[number] for number in numbers],
            batch_size=rows,
            numbers=numbers,
            **vars(self.config),
        )
        return results[: len(batch)]


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


def stream_answers(lm: MedusaLM, job: Job) -> Iterator[list[Generation]]:
    """Prints answers step by step, and yields each when it is complete."""
    for batch in job.batches():
        yield [stream_answer(lm, job, number) for number in batch]


def stream_answer(lm: MedusaLM, job: Job, number: int) -> Generation:
    """Prints the answer to prompt `number`, counted from 0, step by step."""
    display.announce_prompt(number + 1, len(job.prompts))
    printer = display.StepPrinter()
    if printer.coloured and number == job.done:
        note("every change of colour is one step")
    events = stream(lm, job.prompts[number], numbers=[number], **vars(job.config))
    with display.waiting("Running the prompt"):  # and compiling, the first time
        first = next(events)
    for event in itertools.chain([first], events):
        printer.add(event.text)
        if event.result is not None:
            printer.finish(event.result.text)
            return event.result
    raise AssertionError("a stream ends with its result")


def print_answers(lm: MedusaLM, job: Job) -> Iterator[list[Generation]]:
    """Prints each batch's answers as soon as there are any, and yields them."""
    for batch in job.batches():
        results = job.answer(lm, batch)
        show_answers(results, batch.start, len(job.prompts))
        yield results


def show_answers(results: Sequence[Generation], start: int, total: int) -> None:
    """Prints answers that are complete; the first is that to prompt `start` of `total`."""
    for number, result in enumerate(results, start=start + 1):
        display.announce_prompt(number, total)
        display.print_text(result.text)


def collect_answers(lm: MedusaLM, job: Job) -> Iterator[list[Generation]]:
    """Prints nothing but a progress bar, and yields each batch's answers."""
    with display.progress_bar() as bar:
        task = bar.add_task("Answering", total=len(job.prompts), completed=job.done)
        for batch in job.batches():
            yield job.answer(lm, batch)
            bar.update(task, advance=len(batch), refresh=True)
