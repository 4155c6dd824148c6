"""A drafter of our own in one file: no network, and a tree that differs from row to row."""

import dataclasses

import jax.numpy as jnp

from medusa_jax.decoding.drafting.draft import Draft


@dataclasses.dataclass(frozen=True)
class Table:
    """Looks up what followed a token before: params["drafter"] is int32 [V, 2], two successors.

    Rows with an odd root get a chain of two (root, first, its first); the others a fork (root,
    first, second). One node of padding shows that it harms nothing.
    """

    max_depth: int = 2

    def draft(self, params, hidden_BD, root_B, rank):
        del hidden_BD, rank
        after_V2 = params["drafter"]
        first_B, second_B = after_V2[root_B, 0], after_V2[root_B, 1]
        is_chain_B = root_B % 2 == 1
        third_B = jnp.where(is_chain_B, after_V2[first_B, 0], second_B)
        token_BR = jnp.stack([root_B, first_B, third_B, jnp.zeros_like(root_B)], axis=1)
        zero_B = jnp.zeros_like(root_B)
        parent_BR = jnp.stack([zero_B, zero_B, is_chain_B.astype(jnp.int32), zero_B], axis=1)
        depth_BR = jnp.stack([zero_B, zero_B + 1, 1 + parent_BR[:, 2], zero_B], axis=1)
        mask_BRR = jnp.broadcast_to(jnp.eye(4, dtype=bool), (*root_B.shape, 4, 4))
        mask_BRR = mask_BRR.at[:, 1:3, 0].set(True).at[:, 2, 1].set(is_chain_B)
        return Draft(token_BR, parent_BR, depth_BR, mask_BRR, self.max_depth)
