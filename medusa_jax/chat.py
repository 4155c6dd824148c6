"""Prompts to token ids and token ids to text."""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers.decoders import DecodeStream

from medusa_jax.errors import UserError

Message = dict[str, str]
# Plain text, a conversation, or token ids that are used as they are.
Prompt = str | Sequence[Message] | Sequence[int]
# transformers' advice about too long a sequence: whoever encodes a prompt checks its length.
_QUIET = {"verbose": False}


def encode_text(tokenizer: Any, prompt: Prompt, chat: bool | None) -> list[int]:
    """Token ids of a prompt.

    Args:
      tokenizer: of the model (transformers).
      prompt: see `Prompt`; text becomes a user message when `chat` holds.
      chat: apply the chat template; None: when the tokenizer has one.

    Raises:
      UserError: no template for a conversation, or nothing left to start from.
    """
    if not isinstance(prompt, str) and all(_is_integer(p) for p in prompt):
        ids = [int(p) for p in prompt]  # type: ignore[arg-type]
    elif isinstance(prompt, str) and not (tokenizer.chat_template if chat is None else chat):
        ids = list(tokenizer(prompt, **_QUIET)["input_ids"])
    else:
        ids = _encode_chat(tokenizer, prompt)
    if not ids:
        raise UserError("the prompt is empty: give at least one token of text")
    return ids


def _is_integer(value: Any) -> bool:
    """Whether it can be a token id: an int, or a number out of a numpy or JAX array."""
    return isinstance(value, numbers.Integral) or (
        getattr(value, "ndim", None) == 0 and np.issubdtype(value.dtype, np.integer)
    )


def _encode_chat(tokenizer: Any, prompt: Any) -> list[int]:
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template: pass plain text with --nochat")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    try:
        out = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, tokenizer_kwargs=_QUIET
        )
    except Exception as error:  # jinja's errors and the templates' own raise_exception
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the chat template refuses the conversation: {reason}") from error
    return list(out["input_ids"])


def decode_tokens(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """Text of generated tokens, without special ones."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=True)


class TextStream:
    """Turns tokens into text as they come; holds back bytes of an unfinished character."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def feed(self, token_ids: Sequence[int]) -> str:
        """Text that the new tokens complete."""
        return "".join(self._pieces(token_ids))

    def _pieces(self, token_ids: Sequence[int]) -> Iterator[str]:
        for token in token_ids:
            yield self._stream.step(self._tokenizer, int(token)) or ""
