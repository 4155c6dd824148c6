"""What heads that see their branch propose: level by level, for each branch by itself."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.drafting.drafters import Rank, best_proposals, shared_lm_head, with_lm_head
from medusa_jax.nn.branch import branch_term, correction, first_heads, head_hidden, own_params
from medusa_jax.nn.heads import MedusaHeads
from medusa_jax.nn.layers import project, take_rows


@dataclasses.dataclass(frozen=True)
class Brancher:
    """Heads for which `MedusaConfig.sees_branch` is true.

    Attributes:
      heads: those that are used.
      top_k: proposals wanted at each branch.
      dtype: compute dtype.
    """

    heads: MedusaConfig
    top_k: int
    dtype: str

    def start(self, params: dict[str, Any], hidden_BD: jax.Array, root_B: jax.Array) -> Any:
        """What all branches of a row share; see `Drafter.draft` for the arguments."""
        if not self.heads.corrects:
            return hidden_BD[:, None]
        own, backbone = params["drafter"], params["backbone"]
        weights = {name: own["heads"][name] for name in own["heads"] if name != "token_map"}
        branch_B1D = take_rows(backbone["embed"]["weight"], root_B[:, None])
        heads, variables = MedusaHeads(self.heads, jnp.dtype(self.dtype)), {"params": weights}
        x_BMD: Any = heads.apply(variables, hidden_BD, branch_B1D, method="hidden")
        lm_head_VD = None if self.heads.own_projection else shared_lm_head(params)
        return x_BMD, heads.apply(variables, x_BMD, lm_head_VD, method="projected")

    def propose(
        self, params: dict[str, Any], start: Any, token_BNJ: jax.Array, rank: Rank
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The best tokens of head J at the ends of N branches.

        Args:
          params: see `Drafter.draft`.
          start: what `start` gave in the same step.
          token_BNJ: int32, the tokens of each branch, root included.
          rank: see `Drafter.draft`.

        Returns:
          See `best_proposals`.
        """
        with jax.named_scope("medusa_heads"):
            distance_1 = jnp.full((1,), token_BNJ.shape[-1], jnp.int32)
            logits_BNV = self._logits(params, start, token_BNJ)
            return best_proposals(params, logits_BNV, distance_1, rank, self.top_k)

    def _logits(self, params: dict[str, Any], start: Any, token_BNJ: jax.Array) -> jax.Array:
        own, head = params["drafter"]["heads"], token_BNJ.shape[-1] - 1
        dtype, table_VD = jnp.dtype(self.dtype), params["backbone"]["embed"]["weight"]
        if not self.heads.corrects:
            term_BND = branch_term(own["each"][head], take_rows(table_VD, token_BNJ), dtype)
            x_BND = head_hidden(own["each"][head], start, term_BND, dtype)
            with jax.named_scope("medusa_projection"):
                return project(x_BND, shared_lm_head(params), dtype)
        x_BMD, logits_BMV = start
        before_BND = take_rows(table_VD, token_BNJ[..., -1])
        x_BND = jnp.broadcast_to(x_BMD[:, head, None], before_BND.shape)
        return logits_BMV[:, head, None] + correction(own, x_BND, before_BND, dtype)


def make_brancher(
    config: MedusaConfig,
    heads: dict[str, Any],
    backbone: dict[str, Any],
    *,
    depth: int,
    top_k: int,
    dtype: str,
) -> tuple[Brancher, dict[str, Any]]:
    """The first `depth` heads, and what they read.

    Matrices are taken apart here and not in the compiled step, which would copy them every time.

    Args:
      config: of the heads, at least `depth`.
      heads: their parameters.
      backbone: the base model's.
      depth: heads to use.
      top_k: proposals wanted at each branch.
      dtype: compute dtype.

    Returns:
      The heads, and what `with_lm_head` gives: for "markov" and "gated_markov", "heads" is as in
      `MedusaHeads`, for others {"each": by head, see `own_params`}; "token_map" stays in it.
    """
    used = dataclasses.replace(config, num_heads=depth)
    if config.corrects:
        own = first_heads(heads, depth) if depth < config.num_heads else heads
    else:
        own = {"each": own_params(used, heads)}
        own |= {name: heads[name] for name in ("token_map",) if name in heads}
    return Brancher(used, top_k, dtype), with_lm_head(config, own, backbone)
