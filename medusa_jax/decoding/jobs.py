"""What is asked of the engine: prompts and options become tickets, and its updates answers."""

import dataclasses
from collections.abc import Iterator, Sequence

from medusa_jax.chat import Encoded
from medusa_jax.decoding.admission import Ticket
from medusa_jax.decoding.engine import Engine
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.prepared import prepared
from medusa_jax.decoding.results import Answer, StreamEvent
from medusa_jax.decoding.runtime import Clock, make_request
from medusa_jax.decoding.state import Request
from medusa_jax.model import MedusaLM

# A stop text is noticed after the call that gave it: calls are short where there are some.
_STEPS_TO_A_STOP = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """Prompts to answer.

    Attributes:
      encoded: the prompts.
      batch_size: rows of the batch.
      numbers: one per prompt, which chooses its random key.
      config: the options.
    """

    encoded: Sequence[Encoded]
    batch_size: int
    numbers: Sequence[int]
    config: GenerationConfig


def answer_all(
    lm: MedusaLM, job: Job, clock: Clock, most_steps: int | None = None
) -> Iterator[StreamEvent]:
    """Answers the prompts of a job; see `engine.Engine` for the other arguments."""
    engine = make_engine(lm, job, clock, most_steps)
    yield from answers(lm, job, engine, tickets(lm, job))


def make_engine(lm: MedusaLM, job: Job, clock: Clock, most_steps: int | None) -> Engine:
    """An engine for the tickets of a job."""
    config = job.config
    tree = lm.resolve_tree(config.tree)
    if config.stop and most_steps is None:
        most_steps = _STEPS_TO_A_STOP

    def request(tickets: Sequence[Ticket | None]) -> Request:
        return make_request(
            [0 if ticket is None else ticket.budget for ticket in tickets],
            () if config.ignore_eos else lm.eos_ids,
            seed=config.seed,
            numbers=[0 if ticket is None else job.numbers[ticket.index] for ticket in tickets],
            samples=[0 if ticket is None else ticket.sample for ticket in tickets],
            rule_numbers=rule_numbers([config] * len(tickets)),
        )

    return Engine(
        prepared(lm, tree, make_rule(config, tree)),
        request([None] * job.batch_size),
        request,
        clock=clock,
        most_steps=most_steps,
    )


def tickets(lm: MedusaLM, job: Job) -> list[Ticket]:
    """All answers to make, those of a prompt one after the other."""
    config = job.config
    context = min(lm.config.max_position, config.max_context or lm.config.max_position)
    return [
        Ticket(
            index,
            sample,
            given.ids,
            min(config.max_new_tokens, context - len(given.ids)),
            is_shared=config.num_samples > 1,
        )
        for index, given in enumerate(job.encoded)
        for sample in range(config.num_samples)
    ]


def answers(
    lm: MedusaLM, job: Job, engine: Engine, tickets: Sequence[Ticket]
) -> Iterator[StreamEvent]:
    """An event for every update of the engine's."""
    making: dict[Ticket, Answer] = {}
    for update in engine.run(tickets):
        ticket = update.ticket
        if ticket not in making:
            prompt = job.encoded[ticket.index].prompt
            making[ticket] = Answer(lm.tokenizer, prompt, job.config.stop)
        event = making[ticket].add(update)
        if event.result is not None:
            engine.halt(ticket)
            del making[ticket]
        yield event
