"""Conversations to tokens, with the exact spans of the assistant's words."""

import dataclasses
from typing import Any

import numpy as np

from medusa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    """One conversation.

    Attributes:
      token_T: int32 token ids.
      is_label_T: bool, True on the assistant's content and its end-of-turn mark; not on the role
        header, nor on white space after the mark.
    """

    token_T: np.ndarray
    is_label_T: np.ndarray


def tokenize(
    tokenizer: Any, messages: list[dict[str, str]], *, truncated: bool, max_length: int
) -> Example:
    """Renders a conversation with the tokenizer's chat template and marks the labels.

    Args:
      tokenizer: a fast tokenizer with a chat template.
      messages: the turns, {"role", "content"}.
      truncated: the last turn was cut off, so that what the template puts behind it is no label.
      max_length: longer conversations are cut.

    Raises:
      UserError: the template does not render turn by turn, so that spans cannot be told.
    """
    text = _render(tokenizer, messages)
    spans = [
        _span(tokenizer, messages, i, text, truncated and i == len(messages) - 1)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    start_T, end_T = np.asarray(out["offset_mapping"], np.int64).reshape(-1, 2).T
    is_label_T = np.zeros(start_T.shape, bool)
    for first, last in spans:
        is_label_T |= (start_T >= first) & (end_T <= last) & (end_T > start_T)
    token_T = np.asarray(out["input_ids"], np.int32)
    return Example(token_T[:max_length], is_label_T[:max_length])


def _render(tokenizer: Any, messages: list[dict[str, str]], prompt: bool = False) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def _span(
    tokenizer: Any, messages: list[dict[str, str]], turn: int, text: str, truncated: bool
) -> tuple[int, int]:
    """Characters of turn's content and end mark: what the template adds beyond its prompt."""
    before = _render(tokenizer, messages[:turn], prompt=True)
    through = _render(tokenizer, messages[: turn + 1])
    if not (text.startswith(through) and through.startswith(before)):
        raise UserError(
            "this chat template rewrites earlier turns, so the assistant's spans cannot be told: "
            "give the tokenizer one that renders turn by turn"
        )
    if truncated:
        content = messages[turn]["content"].rstrip()
        return len(before), len(before) + through[len(before) :].find(content) + len(content)
    return len(before), len(through.rstrip())
