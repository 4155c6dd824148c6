"""What a rule is, and what all rules share: the longest accepted path of a draft."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import Draft, pick
from medusa_jax.decoding.state import Request


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a rule says of a draft, for every row.

    Attributes:
      num_B: int32, accepted nodes below the root, 0 to the draft's depth (the root always counts).
      nodes_BA: int32 [B, max_depth + 1], the root and the accepted nodes; entries beyond num_B
        repeat the last accepted node.
      last_B: int32, the last accepted node.
      next_root_B: int32, the token after it: the root of the next draft. It belongs to the verdict,
        since a rule that samples has drawn it already to judge the draft.
    """

    num_B: jax.Array
    nodes_BA: jax.Array
    last_B: jax.Array
    next_root_B: jax.Array


class Rule(Protocol):
    """How tokens are chosen; hashable, so that it can be a jit static."""

    def first(self, logits_BV: jax.Array, request: Request, position_B: jax.Array) -> jax.Array:
        """The first new token of each row: int32 [B].

        Args:
          logits_BV: float32 [B, V], the base model's at the last token of the prompt.
          request: its `rule_numbers` are the rule's own.
          position_B: int32 [B], where the token will stand.
        """
        ...

    def judge(
        self, draft: Draft, logits_BRV: jax.Array, request: Request, position_B: jax.Array
    ) -> Verdict:
        """Which path of the draft is accepted, and the token after it.

        Args:
          draft: the tree.
          logits_BRV: float32 [B, R, V], the base model's at every node.
          request: its `rule_numbers` are the rule's own.
          position_B: int32 [B], where the root stands; a node stands its depth further.
        """
        ...

    def rank(
        self,
        logits_BXV: jax.Array,
        request: Request,
        position_BX: jax.Array,
        token_V: jax.Array | None,
    ) -> jax.Array:
        """What drafters rank their proposals by: float32 [B, X, V], or [B, X, Vd].

        No rule has to do more than return the logits: a draft decides how many tokens a step
        accepts, never which.

        Args:
          logits_BXV: float32 [B, X, V], or [B, X, Vd], of X heads or branches.
          request: its `rule_numbers` are the rule's own.
          position_BX: int32 [B, X], or [B, 1], where the proposed tokens would stand.
          token_V: int32 [Vd], the tokens of a draft vocabulary; None: all of them.
        """
        ...


class RankedByLogits:
    """The `rank` of rules whose choice a drafter cannot foresee better than its heads do."""

    def rank(
        self,
        logits_BXV: jax.Array,
        request: Request,
        position_BX: jax.Array,
        token_V: jax.Array | None,
    ) -> jax.Array:
        """See `Rule.rank`."""
        del request, position_BX, token_V
        return logits_BXV


def is_hot(temperature: jax.Array) -> jax.Array:
    """Whether a temperature is positive; subnormal numbers, which XLA flushes, count as 0."""
    return temperature >= jnp.finfo(jnp.float32).tiny


def longest_path(
    draft: Draft, ok_BR: jax.Array, score_BR: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The deepest node that passes with all its ancestors, and the path that leads to it.

    Args:
      draft: the tree.
      ok_BR: bool, whether each node passes by itself; the root always does, padding never.
      score_BR: float32 >= -inf; of equally deep nodes the one whose path has the highest sum wins.

    Returns:
      `Verdict.num_B`, `Verdict.nodes_BA` and `Verdict.last_B`; at ties the lowest node wins.
    """
    ok_BR = (ok_BR & draft.is_node()).at[:, 0].set(True)
    alive_BR = ~(draft.mask_BRR & ~ok_BR[:, None, :]).any(-1)
    depth_BR = jnp.where(alive_BR, draft.depth_BR, -1)
    num_B = depth_BR.max(-1)
    deepest_BR = depth_BR == num_B[:, None]
    if score_BR is None:
        last_B = jnp.argmax(deepest_BR, axis=-1).astype(jnp.int32)
    else:
        # A sum, not a matrix product: -inf times 0 is NaN, and TPUs would round to bfloat16.
        below_root_BRR = draft.mask_BRR.at[:, :, 0].set(False)
        path_score_BR = jnp.where(below_root_BRR, score_BR[:, None, :], 0.0).sum(-1)
        # Kept above what shallower nodes get, or a path of -inf would lose to the root.
        path_score_BR = jnp.maximum(path_score_BR, jnp.finfo(jnp.float32).min)
        best_BR = jnp.where(deepest_BR, path_score_BR, -jnp.inf)
        last_B = jnp.argmax(best_BR, axis=-1).astype(jnp.int32)
    return num_B, _path_to(draft, last_B, num_B), last_B


def _path_to(draft: Draft, last_B: jax.Array, num_B: jax.Array) -> jax.Array:
    """Nodes from the root to `last_B`, which then repeats: int32 [B, max_depth + 1]."""
    B, R = draft.token_BR.shape
    on_path_BR = pick(jnp.broadcast_to(draft.mask_BRR, (B, R, R)), last_B)
    step_1A = jnp.arange(draft.max_depth + 1, dtype=jnp.int32)[None]
    is_node_BAR = on_path_BR[:, None, :] & (draft.depth_BR[:, None, :] == step_1A[:, :, None])
    nodes_BA = jnp.argmax(is_node_BAR, axis=-1).astype(jnp.int32)
    return jnp.where(step_1A <= num_B[:, None], nodes_BA, last_B[:, None])
