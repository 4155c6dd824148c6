"""A conversation."""

from collections.abc import Iterator, Sequence
from typing import Any

from medusa_jax.chat import Message
from medusa_jax.decoding.generate import encode_prompt, stream
from medusa_jax.decoding.options import GenerationConfig
from medusa_jax.decoding.results import StreamEvent
from medusa_jax.model import MedusaLM


class Session:
    """A conversation whose keys and values are kept between turns.

    Attributes:
      prefilled_tokens: tokens of the conversation that the last reply had to run.
    """

    def __init__(self, lm: MedusaLM, **options: Any):
        """Prepares a conversation.

        Args:
          lm: the model.
          **options: see `GenerationConfig`.

        Raises:
          UserError: an option out of range.
        """
        self._lm, self._config = lm, GenerationConfig(**options)
        self.prefilled_tokens = 0

    def reply(self, messages: Sequence[Message]) -> Iterator[StreamEvent]:
        """Answers the last of the messages, which are the whole conversation.

        Raises:
          UserError: at once; the conversation does not fit the context, or is none.
        """
        encoded = encode_prompt(self._lm, list(messages), chat=True)
        self.prefilled_tokens = len(encoded.ids)
        return stream(self._lm, encoded, **vars(self._config))

    def reset(self) -> None:
        """Forgets everything."""
