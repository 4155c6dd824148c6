"""What the engine is asked: prompts and options become tickets, and its updates answers."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from medusa_jax.chat import Encoded
from medusa_jax.decoding.auto import auto_steering
from medusa_jax.decoding.engine.admission import Ticket
from medusa_jax.decoding.engine.engine import Engine
from medusa_jax.decoding.engine.steering import OneTree, Steering
from medusa_jax.decoding.engine.warming import Warmer
from medusa_jax.decoding.options import GenerationConfig, make_rule, rule_numbers
from medusa_jax.decoding.prepared import prepared
from medusa_jax.decoding.results import Answer, StreamEvent
from medusa_jax.decoding.runtime import Clock, Runtime, make_request
from medusa_jax.decoding.state import Request
from medusa_jax.errors import UserError
from medusa_jax.model import MedusaLM
from medusa_jax.tree.build import build_tree

# A stop text is noticed after the call that produced it: calls are short if there are stop texts.
_STEPS_TO_A_STOP = 8


@dataclasses.dataclass(frozen=True)
class Job:
    """Prompts to answer.

    Attributes:
      encoded: the prompts.
      batch_size: rows of the batch.
      numbers: one per prompt, which chooses its random key.
      configs: the options of each prompt; all have one rule and one tree.
      config: what holds for all of them.
    """

    encoded: Sequence[Encoded]
    batch_size: int
    numbers: Sequence[int]
    configs: Sequence[GenerationConfig]
    config: GenerationConfig


def check_bias(lm: MedusaLM, config: GenerationConfig) -> None:
    """Checks that the model has the tokens that are to be more or less likely.

    Raises:
      UserError: a token id of `logit_bias` lies outside the vocabulary, or it excludes all tokens.
    """
    vocab_size = lm.config.vocab_size
    if not all(0 <= token < vocab_size for token in config.logit_bias):
        raise UserError(f"token ids of logit_bias must lie in 0..{vocab_size - 1}")
    if sum(bias == -float("inf") for bias in config.logit_bias.values()) == vocab_size:
        raise UserError("logit_bias excludes all tokens: leave one or more")


def check_tree(lm: MedusaLM, config: GenerationConfig) -> None:
    """Raises UserError unless there is such a tree and the model's heads can fill it."""
    if not lm.is_auto(config.tree):
        lm.resolve_tree(config.tree)


def answer_all(
    lm: MedusaLM, job: Job, clock: Clock, most_steps: int | None = None
) -> Iterator[StreamEvent]:
    """Answers the prompts of a job; see `engine.Engine` for the other arguments."""
    yield from answers(lm, job, make_engine(lm, job, clock, most_steps), tickets(lm, job))


def make_engine(lm: MedusaLM, job: Job, clock: Clock, most_steps: int | None) -> Engine:
    """An engine for the tickets of a job."""
    logprobs = any(config.logprobs for config in job.configs)
    nothing = _request(lm, job, None)
    steering = _auto(lm, job, logprobs, jax.tree.structure(nothing))
    if isinstance(steering, OneTree):
        runtime = steering.runtime  # typical acceptance chooses the first token as its tree's rule
    else:
        tree = build_tree([]) if steering else lm.resolve_tree(job.config.tree)
        runtime = prepared(lm, tree, make_rule(job.config, tree), logprobs)
        steering = steering or OneTree(runtime, tree)
    if most_steps is None and any(config.stop for config in job.configs):
        most_steps = _STEPS_TO_A_STOP

    def request(tickets: Sequence[Ticket]) -> Request:
        return _together([_request(lm, job, ticket) for ticket in tickets])

    idle = _together([nothing] * job.batch_size)
    return Engine(
        runtime,
        idle,
        request,
        clock=clock,
        steering=steering,
        most_steps=most_steps,
        warmer=_warmer(lm, runtime, idle),
    )


def _warmer(lm: MedusaLM, runtime: Runtime, idle: Request) -> Warmer | None:
    """A warmer, on TPUs alone.

    A CPU compiles on the cores that decode, compiling for a GPU uses the GPU itself, and processes
    that share a model have to agree.
    """
    return Warmer(idle) if lm.platform == "tpu" and not runtime.is_shared else None


def _request(lm: MedusaLM, job: Job, ticket: Ticket | None) -> Request:
    """What a row asks for; None: nothing."""
    if ticket is None:
        numbers = _rule_numbers(job, job.config)
        return make_request([0], lm.eos_ids, rule_numbers=numbers, bias_BV=_bias(lm, job, {}))
    config = job.configs[ticket.index]
    return make_request(
        [ticket.budget],
        [-1] * len(lm.eos_ids) if config.ignore_eos else lm.eos_ids,
        seed=config.seed,
        numbers=[job.numbers[ticket.index]],
        samples=[ticket.sample],
        rule_numbers=_rule_numbers(job, config),
        bias_BV=_bias(lm, job, config.logit_bias),
    )


def _rule_numbers(job: Job, config: GenerationConfig) -> Any:
    """The rule's numbers for one row; alike in structure for all, which one program decodes."""
    return rule_numbers([config], filters=any(config.has_filters for config in job.configs))


def _bias(lm: MedusaLM, job: Job, logit_bias: Mapping[int, float]) -> np.ndarray | None:
    """float32 [1, V]; None when no prompt of the batch wants one."""
    if not any(config.logit_bias for config in job.configs):
        return None
    bias_1V = np.zeros((1, lm.config.vocab_size), np.float32)
    bias_1V[0, [*logit_bias]] = [*logit_bias.values()]
    return bias_1V


def _together(requests: Sequence[Request]) -> Request:
    return jax.tree.map(lambda *rows: np.concatenate(rows), *requests)


def _auto(lm: MedusaLM, job: Job, logprobs: bool, request: Any) -> Steering | None:
    """Steering for a tree that is to be chosen; None: it is given."""
    if not lm.is_auto(job.config.tree):
        return None
    longest = max((t.bound for t in tickets(lm, job)), default=1)
    return auto_steering(
        lm, job.config, job.batch_size, longest, logprobs=logprobs, request=request
    )


def tickets(lm: MedusaLM, job: Job) -> list[Ticket]:
    """All answers to make, those of a prompt one after the other."""
    return [
        Ticket(
            index=index,
            sample=sample,
            ids=given.ids,
            budget=min(config.max_new_tokens, _context(lm, config) - len(given.ids)),
            is_shared=config.num_samples > 1,
        )
        for index, (given, config) in enumerate(zip(job.encoded, job.configs, strict=True))
        for sample in range(config.num_samples)
    ]


def _context(lm: MedusaLM, config: GenerationConfig) -> int:
    return min(lm.config.max_position, config.max_context or lm.config.max_position)


def answers(
    lm: MedusaLM, job: Job, engine: Engine, tickets: Sequence[Ticket]
) -> Iterator[StreamEvent]:
    """An event for every update of the engine."""
    making: dict[Ticket, Answer] = {}
    for update in engine.run(tickets):
        ticket = update.ticket
        if ticket not in making:
            prompt, config = job.encoded[ticket.index].prompt, job.configs[ticket.index]
            making[ticket] = Answer(lm.tokenizer, prompt, config)
        event = making[ticket].add(update)
        if event.result is not None:
            engine.halt(ticket)
            del making[ticket]
        yield event
