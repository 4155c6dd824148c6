"""How often heads are right, and how many tokens per step of decoding that is worth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.objectives.labels import IGNORE
from medusa_jax.tree.build import Tree

TOP = 5  # reports give accuracies among the 1 .. TOP most likely tokens
MISS = int(np.iinfo(np.int32).max)  # rank of no label, or of one outside the head's vocabulary


def label_rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many tokens a head prefers to its label: 0 for its first choice.

    Args:
      logits: float32 [..., V].
      labels: int32 [...], ids within V; below 0 where there is none.

    Returns:
      int32 [...]; only larger logits count against a label. MISS where there is none.
    """
    own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[..., None], axis=-1)
    return jnp.where(labels >= 0, (logits > own).sum(axis=-1, dtype=jnp.int32), MISS)


def count_hits(rank: jax.Array, top: int) -> jax.Array:
    """How many labels of each head are among its 1 .. `top` most likely tokens.

    Args:
      rank: int32 [..., M], see `label_rank`.
      top: how many counts are wanted.

    Returns:
      float32 [top, M].
    """
    positions = tuple(range(rank.ndim - 1))
    return jnp.stack(
        [(rank < k).sum(axis=positions).astype(jnp.float32) for k in range(1, top + 1)]
    )


def followed_nodes(tree: Tree, rank: jax.Array) -> jax.Array:
    """How far into a tree the labels lead: what a greedy step accepts after the root.

    Example: with nodes [0], [1], [1, 0], labels of ranks (1, 0, 3) are followed through [1] to
    [1, 0]: 2 nodes. Ranks (0, 0, 3) lead to [0] alone, (2, 0, 0) nowhere.

    Args:
      tree: at most M levels below its root.
      rank: int32 [..., M], see `label_rank`.

    Returns:
      int32 [...], depth of the deepest node whose whole path has the labels' ranks.
    """
    if tree.max_depth == 0:
        return jnp.zeros(rank.shape[:-1], jnp.int32)
    rank_TM = rank.reshape(-1, rank.shape[-1])
    depth_R, rank_R, mask_RR = map(jnp.asarray, (tree.depth_R, tree.rank_R, tree.mask_RR))
    agrees_TR = rank_TM[:, jnp.maximum(depth_R - 1, 0)] == rank_R[None]
    agrees_TR = agrees_TR | (depth_R == 0)[None]
    is_followed_TR = ~(mask_RR[None] & ~agrees_TR[:, None, :]).any(axis=-1)
    return jnp.where(is_followed_TR, depth_R[None], 0).max(axis=-1).reshape(rank.shape[:-1])


def accuracy_sums(
    rank_BTM: jax.Array, labels_BTJ: jax.Array, tree: Tree | None
) -> dict[str, jax.Array]:
    """What is added up over a batch besides its losses.

    Args:
      rank_BTM: int32, see `label_rank`.
      labels_BTJ: int32, the base head's labels first.
      tree: at most M levels below its root; None: nothing is followed.

    Returns:
      float32 "hits" [TOP, M] and "labels" [M] (also those outside the heads' vocabulary); with a
      tree, "followed" too: nodes after the roots, which are the base head's labels.
    """
    is_label_BTJ = labels_BTJ != IGNORE
    sums = {
        "hits": count_hits(rank_BTM, TOP),
        "labels": is_label_BTJ[..., 1:].sum((0, 1)).astype(jnp.float32),
    }
    if tree is not None:
        followed_BT = jnp.where(is_label_BTJ[..., 0], followed_nodes(tree, rank_BTM), 0)
        sums["followed"] = followed_BT.sum().astype(jnp.float32)
    return sums


def expected_tokens(followed: Any, num_roots: Any) -> Any:
    """Expected tokens per step of a tree: the root, and the nodes that the labels follow from it.

    A step of decoding writes the root, so the roots are the labels of the base head: at every
    position t that has one, y_{t+1} is the root and heads 1..M continue from there.

    Args:
      followed: sum of `followed_nodes` over those positions.
      num_roots: how many there are, at least 1.
    """
    return 1.0 + followed / num_roots
