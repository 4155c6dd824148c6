"""Greedy acceptance: the text of greedy autoregressive decoding (bfloat16: up to near ties)."""

import dataclasses

import jax

from medusa_jax.decoding.drafting.draft import Draft, pick
from medusa_jax.decoding.rules.rule import RankedByLogits, Verdict, longest_path
from medusa_jax.decoding.state import Request
from medusa_jax.nn.vocabulary import best_token


@dataclasses.dataclass(frozen=True)
class Greedy(RankedByLogits):
    """A node is accepted when it holds the base model's most likely token at its parent."""

    def first(self, logits_BV: jax.Array, request: Request, position_B: jax.Array) -> jax.Array:
        """See `Rule.first`."""
        del request, position_B
        return best_token(logits_BV)

    def judge(
        self, draft: Draft, logits_BRV: jax.Array, request: Request, position_B: jax.Array
    ) -> Verdict:
        """See `Rule.judge`."""
        del request, position_B
        best_BR = best_token(logits_BRV)
        num_B, nodes_BA, last_B = longest_path(draft, draft.token_BR == draft.at_parent(best_BR))
        return Verdict(num_B, nodes_BA, last_B, pick(best_BR, last_B))
