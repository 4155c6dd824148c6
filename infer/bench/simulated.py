"""A rule for random models, whose heads guess nothing: accepts as often as with real heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.decoding.drafting.draft import Draft, pick
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.rule import Verdict, longest_path
from medusa_jax.decoding.state import Request
from medusa_jax.nn.vocabulary import best_token
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.dynamic import AnyTree, DynamicTree
from medusa_jax.tree.rates import Rates
from medusa_jax.tree.search import best_tree


@dataclasses.dataclass(frozen=True)
class Simulated(Greedy):
    """Draws how deep each row's path is accepted; costs what greedy acceptance costs.

    Attributes:
      reach: for each depth from 1 on, how often a step accepts a path of at least that depth.
    """

    reach: tuple[float, ...] = ()

    def judge(
        self, draft: Draft, logits_BRV: jax.Array, request: Request, position_B: jax.Array
    ) -> Verdict:
        """See `Rule.judge`; of the nodes at the drawn depth, the first is accepted."""
        best_BR = best_token(logits_BRV)
        drawn_B = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(
            request.position_keys(position_B)
        )
        reach_1D = jnp.asarray(self.reach, jnp.float32)[None]
        wanted_B1 = (drawn_B[:, None] < reach_1D).sum(-1, dtype=jnp.int32)[:, None]
        depth_BR = jnp.where(draft.is_node(), draft.depth_BR, -1)
        depth_BR = jnp.broadcast_to(depth_BR, draft.token_BR.shape)
        depth_BR = jnp.where(depth_BR <= wanted_B1, depth_BR, -1)
        deepest_B = jnp.argmax(depth_BR, axis=-1).astype(jnp.int32)
        mask_BRR = jnp.broadcast_to(draft.mask_BRR, (*depth_BR.shape, depth_BR.shape[1]))
        num_B, nodes_BA, last_B = longest_path(draft, pick(mask_BRR, deepest_B))
        return Verdict(num_B, nodes_BA, last_B, pick(best_BR, last_B))


def simulated(tree: AnyTree, rates: Rates) -> Simulated:
    """The rule for a tree whose nodes are accepted at some rates.

    A dynamic tree accepts at least as much as the best fixed one of its size, which stands for it.
    """
    if isinstance(tree, DynamicTree):
        tree = build_tree(best_tree(rates, tree.R - 1))
    accepted_R, depth_R = rates.of_nodes(tree), np.asarray(tree.depth_R)
    depths = range(1, tree.max_depth + 1)
    return Simulated(tuple(float(accepted_R[depth_R == depth].sum()) for depth in depths))
