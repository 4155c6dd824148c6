"""A draft: the tree of tokens that one step verifies, as arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.tree.build import Tree

_MOST_SLICES = 16  # each is an instruction of its own
_LARGE = 2**26  # bytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draft:
    """R tokens in a tree, for every row of a batch. Node 0 is the root.

    Parents precede their children. The shape of the tree may be the same for all rows (leading axis
    1) or differ from row to row (leading axis B). A node of depth 0 other than the root is padding:
    no rule accepts it. The examples are of one row, in which "cat" is the root, "sat" and "ran" may
    follow it, and "down" may follow "sat":

    Attributes:
      token_BR: int32 [B, R]; here [[cat, sat, ran, down]].
      parent_BR: int32 [1 or B, R], the root is its own parent; here [[0, 0, 0, 1]].
      depth_BR: int32 [1 or B, R], distance from the root; here [[0, 1, 1, 2]].
      mask_BRR: bool [1 or B, R, R], node r (axis 1) sees node c (axis 2), which is r itself or one
        of its ancestors; here row 3 is [1, 1, 0, 1].
      max_depth: bound of depth_BR.
    """

    token_BR: jax.Array
    parent_BR: jax.Array
    depth_BR: jax.Array
    mask_BRR: jax.Array
    max_depth: int = dataclasses.field(metadata={"static": True})

    def is_node(self) -> jax.Array:
        """bool [1 or B, R], False for padding."""
        return (self.depth_BR > 0).at[:, 0].set(True)

    def at_parent(self, x_BR: jax.Array) -> jax.Array:
        """What x_BR [B, R] holds at each node's parent."""
        parent_BR = jnp.broadcast_to(self.parent_BR, x_BR.shape)
        return jnp.take_along_axis(x_BR, parent_BR, axis=1)


def tree_draft(tree: Tree, token_BR: jax.Array) -> Draft:
    """These tokens, int32 [B, R], in the nodes of one tree for all rows."""
    parent_1R, depth_1R = jnp.asarray(tree.parent_R)[None], jnp.asarray(tree.depth_R)[None]
    mask_1RR = jnp.asarray(tree.mask_RR)[None]
    return Draft(token_BR, parent_1R, depth_1R, mask_1RR, tree.max_depth)


def root_draft(root_B: jax.Array, nodes: int = 1) -> Draft:
    """The root alone, padded to some nodes: with it, a step decodes autoregressively."""
    token_BR = jnp.broadcast_to(root_B[:, None], (len(root_B), nodes))
    zero_1R = jnp.zeros((1, nodes), jnp.int32)
    return Draft(token_BR, zero_1R, zero_1R, jnp.eye(nodes, dtype=jnp.bool_)[None], 0)


def pick(x_BR: jax.Array, node_B: jax.Array) -> jax.Array:
    """x[b, node[b]] of every row: [B, R, ...] -> [B, ...]."""
    if x_BR.ndim == 2:
        return _gathered(x_BR, node_B)
    # Slices, not a gather, for which a TPU would read all logits of all nodes, several times over.
    if len(node_B) > _MOST_SLICES:
        if x_BR.nbytes < _LARGE:
            return _gathered(x_BR, node_B)
        return jax.lax.platform_dependent(x_BR, node_B, tpu=_one_by_one, default=_gathered)
    return jnp.stack([_of_row(x_BR, np.int32(b), node) for b, node in enumerate(node_B)])


def _gathered(x_BR: jax.Array, node_B: jax.Array) -> jax.Array:
    index = node_B.reshape(-1, *(1,) * (x_BR.ndim - 1))
    return jnp.take_along_axis(x_BR, index, axis=1).squeeze(1)


def _one_by_one(x_BR: jax.Array, node_B: jax.Array) -> jax.Array:
    rows = jnp.arange(len(node_B), dtype=jnp.int32)
    return jax.lax.map(lambda each: _of_row(x_BR, *each), (rows, node_B))


def _of_row(x_BR: jax.Array, row: Any, node: jax.Array) -> jax.Array:
    """x[row, node], as a slice."""
    rest = (np.int32(0),) * (x_BR.ndim - 2)
    return jax.lax.dynamic_slice(x_BR, (row, node, *rest), (1, 1, *x_BR.shape[2:]))[0, 0]
