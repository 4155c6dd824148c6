"""Labels and losses of training: pure functions of arrays."""

import jax
import jax.numpy as jnp
import optax

from medusa_jax.tree.build import Tree

IGNORE = -100  # no label
OUTSIDE = -1  # a label that is not in the draft vocabulary of the heads
TOP = 5  # accuracies are reported for the 1 .. TOP most likely tokens


def shift_labels(
    token_BT: jax.Array, is_label_BT: jax.Array, segment_BT: jax.Array, num_heads: int
) -> jax.Array:
    """Labels of the base head and of every Medusa head (paper, equation 1).

    At position t the base head predicts the token at t + 1 and head k = 1..M the one at t + k + 1.

    Args:
      token_BT: int token ids.
      is_label_BT: bool, tokens that count as labels (the assistant's).
      segment_BT: int, number of the packed document, 0 for padding. No label lies in another
        document than its position.
      num_heads: M.

    Returns:
      int32 [B, T, M + 1], the base head's first; IGNORE where there is no label.
    """
    length = token_BT.shape[1]

    def shifted(k: int) -> jax.Array:
        ahead = [(0, 0), (0, min(k, length))]
        token, is_label, segment = (
            jnp.pad(jnp.asarray(x), ahead)[:, -length:] if length else jnp.asarray(x)
            for x in (token_BT, is_label_BT, segment_BT)
        )
        same = (segment == jnp.asarray(segment_BT)) & (segment != 0)
        return jnp.where(is_label & same, token.astype(jnp.int32), IGNORE)

    return jnp.stack([shifted(k) for k in range(1, num_heads + 2)], axis=-1)


def count_labels(labels: jax.Array) -> jax.Array:
    """Labels per head that it can learn, at least 1: int [..., M] -> float32 [M]."""
    count_M = (labels >= 0).sum(axis=tuple(range(labels.ndim - 1)))
    return jnp.maximum(count_M, 1).astype(jnp.float32)


def head_sums(
    logits: jax.Array,
    labels: jax.Array,
    *,
    teacher: jax.Array | None = None,
    tree: Tree | None = None,
) -> dict[str, jax.Array]:
    """Sums over positions, to be divided by `count_labels`.

    Args:
      logits: float32 [..., M, V].
      labels: int32 [..., M], ids within V, OUTSIDE or IGNORE.
      teacher: float32 [..., M, V], logits of the distribution to learn instead of the label's
        token (soft labels); positions without a label do not count all the same.
      tree: at most M levels below its root; only with it "accepted" is there.

    Returns:
      "loss" [M], cross-entropies; "hits" [TOP, M], labels among the 1 .. TOP most likely tokens
      (a token as likely as the label does not count against it); "labels" [M], how many there are,
      those OUTSIDE too: what hits are a share of; "accepted", a scalar, the sum of
      `followed_nodes`.
    """
    batch = tuple(range(labels.ndim - 1))
    valid = labels >= 0
    safe = jnp.where(valid, labels, 0)
    if teacher is None:
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, safe)
    else:
        entropy = optax.softmax_cross_entropy(logits, jax.nn.softmax(teacher))
    own = jnp.take_along_axis(logits, safe[..., None], axis=-1)
    rank = jnp.where(valid, (logits > own).sum(axis=-1, dtype=jnp.int32), jnp.iinfo(jnp.int32).max)
    sums = {
        "loss": jnp.where(valid, entropy, 0.0).sum(axis=batch),
        "hits": jnp.stack([(rank < k).sum(axis=batch) for k in range(1, TOP + 1)]).astype(
            jnp.float32
        ),
        "labels": (labels != IGNORE).sum(axis=batch).astype(jnp.float32),
    }
    if tree is not None:
        sums["accepted"] = followed_nodes(tree, rank).sum().astype(jnp.float32)
    return sums


def followed_nodes(tree: Tree, rank: jax.Array) -> jax.Array:
    """How far into a tree the labels lead: what a step accepts behind the root.

    Args:
      tree: at most M levels below its root.
      rank: int32 [..., M], how many tokens head k prefers to its label; more than any rank in the
        tree where there is no label.

    Returns:
      int32 [...], depth of the deepest node such that every node on its path has its label's rank.
    """
    if tree.max_depth == 0:
        return jnp.zeros(rank.shape[:-1], jnp.int32)
    rank_NM = rank.reshape(-1, rank.shape[-1])
    depth_R, rank_R, mask_RR = map(jnp.asarray, (tree.depth_R, tree.rank_R, tree.mask_RR))
    equal_NR = rank_NM[:, jnp.maximum(depth_R - 1, 0)] == rank_R[None]
    equal_NR = equal_NR | (depth_R == 0)[None]
    broken_NR = (mask_RR[None] & ~equal_NR[:, None, :]).any(axis=-1)
    return jnp.where(broken_NR, 0, depth_R[None]).max(axis=-1).reshape(rank.shape[:-1])


def divergence_sum(teacher: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum of KL(teacher || model) over the positions that have a label (paper, section 2.3.2).

    Args:
      teacher: float32 [..., V], logits of the original model.
      logits: float32 [..., V].
      labels: int32 [...], only whether they are IGNORE matters.

    Returns:
      float32 scalar.
    """
    target = jax.nn.log_softmax(teacher)
    divergence = (jnp.exp(target) * (target - jax.nn.log_softmax(logits))).sum(axis=-1)
    return jnp.where(labels != IGNORE, divergence, 0.0).sum()
