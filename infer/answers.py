"""Answers all prompts of a command line: streamed, or in batches."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from infer import display
from medusa_jax import Generation, MedusaLM, UserError, generate_batches, stream
from medusa_jax.chat import Prompt
from medusa_jax.decoding.generate import encode_prompt


@dataclasses.dataclass(frozen=True)
class Job:
    """What to answer, and how.

    Attributes:
      prompts: at least one.
      batch_size: prompts decoded at the same time.
      chat: apply the chat template; None: when there is one.
      options: of `medusa_jax.GenerationConfig`.
    """

    prompts: list[Prompt]
    batch_size: int
    chat: bool | None
    options: dict[str, Any]

    def run(self, lm: MedusaLM) -> Iterator[Generation]:
        """Yields each batch's answers as it ends."""
        return generate_batches(
            lm, self.prompts, batch_size=self.batch_size, chat=self.chat, **self.options
        )


def check_prompts(lm: MedusaLM, job: Job) -> None:
    """Finds a prompt that cannot be answered before any answer is shown.

    Raises:
      UserError: names the prompt, when there are several.
    """
    for number, prompt in enumerate(job.prompts, start=1):
        try:
            encode_prompt(lm, prompt, job.chat)
        except UserError as error:
            which = f"prompt {number}: " if len(job.prompts) > 1 else ""
            raise UserError(f"{which}{error}") from None


def stream_answers(lm: MedusaLM, job: Job) -> list[Generation]:
    """Prints every answer step by step."""
    results = []
    for number, prompt in enumerate(job.prompts, start=1):
        display.announce_prompt(number, len(job.prompts))
        printer = display.StepPrinter()
        if printer.coloured and number == 1:
            display.note("every change of colour is one step")
        events = stream(lm, prompt, chat=job.chat, first_row=number - 1, **job.options)
        with display.waiting("Running the prompt"):  # and compiling, the first time
            first = next(events)
        for event in itertools.chain([first], events):
            printer.add(event.text)
            if event.result is not None:
                printer.finish(event.result.text)
                results.append(event.result)
    return results


def print_answers(results: Iterable[Generation], total: int) -> list[Generation]:
    """Prints every answer as soon as there is one."""
    printed = []
    for result in results:
        printed.append(result)
        display.announce_prompt(len(printed), total)
        display.print_text(result.text)
    return printed


def collect_answers(lm: MedusaLM, job: Job) -> list[Generation]:
    """Prints nothing but a progress bar."""
    with display.progress_bar() as bar:
        return list(bar.track(job.run(lm), total=len(job.prompts), description="Answering"))
