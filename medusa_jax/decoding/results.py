"""What decoding gives: answers, and events of a stream."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from medusa_jax.chat import Prompt, decode_tokens
from medusa_jax.decoding.options import GenerationConfig
from medusa_jax.decoding.stops import TextSoFar
from medusa_jax.decoding.updates import Token, Update
from medusa_jax.tree.build import Tree
from medusa_jax.tree.dynamic import AnyTree, DynamicTree


@dataclasses.dataclass(frozen=True)
class Generation:
    """An answer. The seconds are its own, whatever else the batch does meanwhile.

    Attributes:
      prompt: as given.
      text: new text, without special tokens.
      token_ids: new tokens only, EOS included when it was produced.
      num_new_tokens: how many.
      num_steps: backbone passes after prefill.
      tokens_per_step: num_new_tokens / num_steps.
      prefill_seconds: for running the prompt, and others that were run in the same call.
      decode_seconds: from then until its last token. Rows of a batch share this time.
      tokens_per_second: num_new_tokens / decode_seconds.
      compile_seconds: for compiling; not included in the others.
      finish_reason: "stop" (EOS or a stop text) or "length" (budget or context is used up).
      sample: which of the prompt's answers, counted from 0.
      logprobs: of each token under the model itself (temperature 1, no filter, no bias), if they
        were asked for.
      tree: paths of the tree that its last step verified, without the root; [] is the root alone,
        "dynamic:N" a tree chosen at every step. With "auto" earlier steps may have had others.
      accepted: how many of its steps with this tree emitted the root, then each of the paths; []
        for a dynamic one.
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
    sample: int = 0
    logprobs: list[float] | None = None
    tree: list[list[int]] | str = dataclasses.field(default_factory=list)
    accepted: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class StreamEvent:
    """What one step added to an answer.

    Attributes:
      index: of the prompt, counted from 0.
      text: what the tokens complete, without special tokens; may be empty.
      token_ids: new tokens; the last event of an answer may have none.
      result: the whole answer, in its last event only.
      sample: which of the prompt's answers, counted from 0.
    """

    index: int
    text: str
    token_ids: list[int]
    result: Generation | None = None
    sample: int = 0


class Answer:
    """An answer in the making."""

    def __init__(self, tokenizer: Any, prompt: Prompt, config: GenerationConfig):
        """Begins with nothing.

        Args:
          tokenizer: of the model.
          prompt: as the result shall name it.
          config: its options.
        """
        self._tokenizer, self._prompt, self._config = tokenizer, prompt, config
        self._so_far = TextSoFar(tokenizer, config.stop)
        self._tokens: list[Token] = []
        self._tree: AnyTree | None = None
        self._tree_since = self._num_steps = 0

    def add(self, update: Update) -> StreamEvent:
        """Takes what is new; the event has the result when the answer is complete."""
        self._so_far.add([token.id for token in update.tokens])
        self._tokens += update.tokens
        if update.num_steps > self._num_steps and update.tree is not self._tree:
            self._tree, self._tree_since = update.tree, self._num_steps
        self._num_steps = update.num_steps
        result = None
        if update.done or self._so_far.is_stopped:
            result = self._result(update)
        text, token_ids = self._so_far.take(None if result is None else result.text)
        return StreamEvent(
            index=update.ticket.index,
            text=text,
            token_ids=token_ids,
            result=result,
            sample=update.ticket.sample,
        )

    def _result(self, update: Update) -> Generation:
        token_ids, cut = self._so_far.token_ids, self._so_far.is_stopped
        # Up to the step that gave the first token that is cut off.
        steps = self._tokens[len(token_ids)].step + 1 if cut else update.num_steps
        num, seconds = len(token_ids), update.decode_seconds
        probs = [token.logprob for token in self._tokens[:num] if token.logprob is not None]
        return Generation(
            prompt=self._prompt,
            text=self._so_far.text if cut else decode_tokens(self._tokenizer, token_ids),
            token_ids=token_ids,
            num_new_tokens=num,
            num_steps=steps,
            tokens_per_step=num / max(steps, 1),
            prefill_seconds=update.prefill_seconds,
            decode_seconds=seconds,
            tokens_per_second=num / seconds if seconds else 0.0,
            compile_seconds=update.compile_seconds,
            finish_reason="stop" if update.stopped or cut else "length",
            sample=update.ticket.sample,
            logprobs=probs if self._config.logprobs else None,
            tree=_written(self._tree),
            accepted=self._accepted(self._tokens[:num]),
        )

    def _accepted(self, tokens: Sequence[Token]) -> list[int]:
        if not isinstance(self._tree, Tree):
            return []
        nodes = [token.node for token in tokens if token.step >= self._tree_since]
        return np.bincount(np.asarray(nodes, np.int32), minlength=self._tree.R).tolist()


def _written(tree: AnyTree | None) -> list[list[int]] | str:
    if isinstance(tree, DynamicTree):
        return f"dynamic:{tree.R}"
    return [] if tree is None else tree.paths()
