"""What the engine hands out: the new tokens of answers."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from medusa_jax.decoding.engine.admission import Ticket
from medusa_jax.decoding.state import Progress
from medusa_jax.tree.dynamic import AnyTree


class Token(NamedTuple):
    """A token of an answer.

    Attributes:
      id: of the token.
      step: the one that commits it, counted from 0.
      node: of that step's tree.
      logprob: under the model as it is; None where nobody asked.
    """

    id: int
    step: int
    node: int
    logprob: float | None


@dataclasses.dataclass(frozen=True)
class Update:
    """What is new in an answer.

    Attributes:
      ticket: of the answer.
      tokens: those that became certain. The one after those that a step commits is certain too: an
        answer is handed out up to its next root, unless that is an end.
      num_steps: backbone passes after prefill, so far.
      tree: what the passes since the previous update have verified; None: there were none.
      done: there will be no more.
      stopped: by an EOS token, the last one.
      prefill_seconds: running the prompt, and those that were run with it.
      decode_seconds: since then.
      compile_seconds: compiling while the prompt was run or decoded, not contained in the others.
    """

    ticket: Ticket
    tokens: list[Token]
    num_steps: int
    tree: AnyTree | None
    done: bool
    stopped: bool
    prefill_seconds: float
    decode_seconds: float
    compile_seconds: float


def emitted(progress: Progress, row: int, since: int) -> list[Token]:
    """The tokens that a row has emitted, from number `since` on; `progress` is on the host."""
    new = row, slice(since, int(progress.num_new_B[row]))
    probs = progress.logprobs and progress.logprobs.output_BO[new]
    return _tokens(progress.output_BO[new], progress.made_at_BO[new], progress.node_BO[new], probs)


def next_root(progress: Progress, row: int) -> Token:
    """The token after those that a row has emitted, which its next step will emit as the root."""
    probs = progress.logprobs and progress.logprobs.root_B
    return roots(progress.root_B, progress.num_steps_B, probs)[row]


def roots(id_B: Any, step_B: Any, logprob_B: Any) -> list[Token]:
    """The tokens that some rows begin a step with; host arrays, the last may be None."""
    return _tokens(id_B, step_B, np.zeros_like(id_B), logprob_B)


def _tokens(id_T: Any, step_T: Any, node_T: Any, logprob_T: Any) -> list[Token]:
    logprobs = [None] * len(id_T) if logprob_T is None else logprob_T.tolist()
    return [*map(Token, id_T.tolist(), step_T.tolist(), node_T.tolist(), logprobs)]
