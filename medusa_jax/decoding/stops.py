"""Text of an answer as its tokens come, cut off before the first stop text."""

import bisect
from collections.abc import Sequence
from typing import Any

from medusa_jax.chat import TextStream


class TextSoFar:
    """Collects an answer's tokens and their text.

    Attributes:
      token_ids: so far; without the tokens of a stop text, when one was found.
      text: so far, without special tokens; up to the stop text. Bytes of an unfinished character
        are held back.
      is_stopped: a stop text was found.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()):
        """Begins an answer that ends before any of the `stops`."""
        self._stream, self._stops = TextStream(tokenizer), stops
        # For each token, where the text that it has a part in ends; not known yet for the last ones
        # while bytes of their character are missing.
        self._end_at: list[int] = []
        self._shown, self._taken = 0, 0
        self.token_ids: list[int] = []
        self.text = ""
        self.is_stopped = False

    def add(self, token_ids: Sequence[int]) -> None:
        """Takes more tokens; after a stop text none."""
        for token in token_ids:
            if self.is_stopped:
                return
            before = len(self.text)
            self.token_ids.append(token)
            piece = self._stream.feed([token])
            self.text += piece
            waiting = len(self.token_ids) - len(self._end_at)
            if piece or (waiting == 1 and token in self._stream.special):
                self._end_at += [len(self.text)] * waiting
            self._look(before)

    def take(self, whole: str | None = None) -> tuple[str, list[int]]:
        """Text and tokens to hand out that have not been taken yet.

        Args:
          whole: text of the complete answer; None: there may be more, so that what might become a
            stop text is held back.
        """
        end = len(self.text)
        if whole is None:
            end -= self._held_back()
        piece, self._shown = self.text[self._shown : end], max(self._shown, end)
        if whole is not None and whole.startswith(self.text):
            piece += whole[len(self.text) :]  # what an unfinished character held back
        count = len(self.token_ids)
        if whole is None and self._stops:
            count = bisect.bisect_right(self._end_at, end)
        token_ids, self._taken = self.token_ids[self._taken : count], count
        return piece, token_ids

    def _look(self, before: int) -> None:
        """Looks for stop texts that end after `before`."""
        found = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stops]
        start = min((at for at in found if at >= 0), default=None)
        if start is None:
            return
        self.is_stopped = True
        self.text = self.text[:start]
        # The first token whose text goes beyond the cut.
        del self.token_ids[bisect.bisect_right(self._end_at, start) :]

    def _held_back(self) -> int:
        """How much of the text's end might be the beginning of a stop text."""
        longest = max(map(len, self._stops), default=0)
        tail = self.text[-longest + 1 :] if longest > 1 else ""
        starts = (i for i in range(len(tail)) if any(s.startswith(tail[i:]) for s in self._stops))
        return len(tail) - next(starts, len(tail))
