"""Texts that end an answer, wherever their characters fall among the tokens."""

from collections.abc import Sequence
from typing import Any

from medusa_jax.chat import decode_tokens


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of some texts begins, counted in characters; None: nowhere."""
    found = [start for stop in stops if (start := text.find(stop)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many last characters may turn out to begin one of the texts: they cannot be shown yet."""
    sizes = range(1, max(map(len, stops), default=1))
    return max((n for n in sizes if any(stop.startswith(text[-n:]) for stop in stops)), default=0)


def tokens_before(tokenizer: Any, token_ids: Sequence[int], end: int) -> int:
    """How many first tokens have no character from number `end` on.

    Args:
      tokenizer: of the model.
      token_ids: of a text.
      end: characters of that text that stay.
    """
    low, high = 0, len(token_ids)
    while low < high:  # the text of more tokens is never shorter
        middle = (low + high + 1) // 2
        if len(decode_tokens(tokenizer, token_ids[:middle])) <= end:
            low = middle
        else:
            high = middle - 1
    return low
