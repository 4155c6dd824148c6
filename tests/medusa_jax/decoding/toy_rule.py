"""A rule of our own in one file: the token whose number is closest to a row's favourite wins."""

import dataclasses

import jax
import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import pick
from medusa_jax.decoding.rules.rule import Verdict, longest_path


@dataclasses.dataclass(frozen=True)
class Favourite:
    """Among the `k` most likely tokens, the one closest to `request.rule_numbers` (int32 [B])."""

    k: int

    def _best(self, logits, favourite):
        _, top = jax.lax.top_k(logits, self.k)
        nearest = jnp.argmin(jnp.abs(top - favourite), axis=-1)[..., None]
        return jnp.take_along_axis(top, nearest, axis=-1)[..., 0].astype(jnp.int32)

    def first(self, logits_BV, request, position_B):
        del position_B
        return self._best(logits_BV, request.rule_numbers[:, None])

    def judge(self, draft, logits_BRV, request, position_B):
        del position_B
        best_BR = self._best(logits_BRV, request.rule_numbers[:, None, None])
        num_B, nodes_BA, last_B = longest_path(draft, draft.token_BR == draft.at_parent(best_BR))
        return Verdict(num_B, nodes_BA, last_B, pick(best_BR, last_B))

    def rank(self, logits_BXV, request, position_BX, token_V):
        del request, position_BX, token_V
        return logits_BXV
