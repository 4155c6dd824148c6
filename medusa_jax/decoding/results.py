"""What decoding gives: answers, and events of a stream."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Generation:
    """The answer to one prompt. Seconds are those of the batch the prompt was decoded in.

    Attributes:
      prompt: as given.
      text: new text, without special tokens.
      token_ids: new tokens only, EOS included when it was produced.
      num_new_tokens: how many.
      num_steps: backbone passes after prefill.
      tokens_per_step: num_new_tokens / num_steps.
      prefill_seconds: running the prompt.
      decode_seconds: everything after, until the last row of the batch was done.
      tokens_per_second: num_new_tokens / decode_seconds.
      compile_seconds: spent compiling, not contained in the others.
      finish_reason: "stop" (EOS) or "length" (budget or context is used up).
    """

    prompt: Any
    text: str
    token_ids: list[int]
    num_new_tokens: int
    num_steps: int
    tokens_per_step: float
    prefill_seconds: float
    decode_seconds: float
    tokens_per_second: float
    compile_seconds: float
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """What one step added to the answer of one prompt.

    Attributes:
      index: of the prompt, counted from 0.
      text: what the tokens complete, without special ones; may be empty.
      token_ids: new tokens, at least one but for an event that only brings the result.
      result: the whole answer, with its last event.
    """

    index: int
    text: str
    token_ids: list[int]
    result: Generation | None = None
