"""A conversation whose keys and values are kept between turns."""

import dataclasses
import itertools
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from medusa_jax.chat import Message
from medusa_jax.decoding.cache import KVCache
from medusa_jax.decoding.engine.admission import Ticket
from medusa_jax.decoding.engine.jobs import (
    Job,
    answers,
    check_bias,
    check_tree,
    make_engine,
    tickets,
)
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.decoding.options import GenerationConfig, make_config
from medusa_jax.decoding.results import StreamEvent
from medusa_jax.decoding.runtime import Clock
from medusa_jax.decoding.state import DecodeState
from medusa_jax.errors import UserError
from medusa_jax.model import MedusaLM


class Session:
    """A conversation in which every reply runs only what is new.

    Attributes:
      prefilled_tokens: tokens of the conversation that were run for the last reply.
    """

    def __init__(self, lm: MedusaLM, **options: Any):
        """Prepares a conversation.

        Args:
          lm: the model.
          **options: see `GenerationConfig`; one sample.

        Raises:
          UserError: an option out of range.
        """
        self._lm, self._config = lm, _one_answer(lm, make_config(options))
        self._ids: tuple[int, ...] = ()
        self._cache: KVCache | None = None
        self._prompt_length = 0
        self.prefilled_tokens = 0

    def reply(self, messages: Sequence[Message]) -> Iterator[StreamEvent]:
        """Answers a conversation as `stream` does; it may be another one than before.

        What it has in common with the last one, replies included, is not run again.

        Args:
          messages: all of them, from the first on.

        Raises:
          UserError: at once; the messages are no conversation, or do not fit the context.
        """
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Iterable):
            raise UserError(
                f"messages is {reprlib.repr(messages)}: give a list of messages, "
                '[{"role": "user", "content": "..."}]'
            )
        encoded = encode_prompt(self._lm, list(messages), True, self._config.max_context)
        job = Job([encoded], 1, [0], [self._config], self._config)
        (ticket,) = tickets(self._lm, job)
        kept = self._kept(ticket.ids)
        self.prefilled_tokens = len(ticket.ids) - kept
        if kept:
            ticket = dataclasses.replace(ticket, cache=self._cache, kept=kept)
        return self._stream(job, ticket)

    def change(self, **options: Any) -> None:
        """Goes on with other options, a tree for example; what has been run stays.

        Args:
          **options: those that change.

        Raises:
          UserError: an option out of range; nothing is changed.
        """
        self._config = _one_answer(self._lm, make_config(options, vars(self._config)))

    def reset(self) -> None:
        """Forgets the conversation."""
        self._ids, self._cache = (), None

    def _kept(self, ids: Sequence[int]) -> int:
        """How many of these tokens need not be run: all but the last, at most."""
        rope = self._lm.config.rope
        longest = max(len(ids), self._prompt_length)
        if rope.kind == "dynamic" and longest > rope.original_max_position:
            return 0  # the angles of all tokens depend on how many there are, or were
        pairs = zip(self._ids, ids[:-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _stream(self, job: Job, ticket: Ticket) -> Iterator[StreamEvent]:
        engine = make_engine(self._lm, job, Clock(), most_steps=1)
        self.reset()
        try:
            yield from answers(self._lm, job, engine, [ticket])
        finally:  # whoever breaks off a reply may go on with the conversation
            self._remember(ticket, engine.state)

    def _remember(self, ticket: Ticket, state: DecodeState | None) -> None:
        if state is None or state.num_new_B.is_deleted():
            return
        read = (state.output_BO, state.num_new_B, state.cache.length_B)
        output, num, length = (x[0] for x in jax.device_get(read))
        ids = (*ticket.ids, *output[:num].tolist())
        if len(ids) == length:  # else the prompt has not come so far
            self._ids, self._cache = ids, state.cache
            self._prompt_length = len(ticket.ids)


def _one_answer(lm: MedusaLM, config: GenerationConfig) -> GenerationConfig:
    check_bias(lm, config)
    if config.num_samples != 1:
        raise UserError("a conversation goes on with one reply: leave out num_samples")
    check_tree(lm, config)
    return config
