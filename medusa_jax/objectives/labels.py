"""Labels: which token each head has to predict at each position.

J = M + 1 counts the base head and the M Medusa heads, the base head first.
"""

import jax
import jax.numpy as jnp

IGNORE = -100  # no label
OUTSIDE = -1  # a label that is not in the draft vocabulary of the heads


def shift_labels(
    token_BT: jax.Array, is_label_BT: jax.Array, segment_BT: jax.Array, num_heads: int
) -> jax.Array:
    """Labels of the base head and of every Medusa head (paper, section 2.2.1).

    At position t the base head predicts y_{t+1} and head k = 1..M predicts y_{t+k+1}.

    Args:
      token_BT: int token ids.
      is_label_BT: bool, tokens that count as labels (the assistant's).
      segment_BT: int, number of the packed document, 0 for padding. A position's labels all lie in
        its own document.
      num_heads: M.

    Returns:
      labels_BTJ, int32; IGNORE where there is no label.
    """
    token_BT, is_label_BT, segment_BT = map(jnp.asarray, (token_BT, is_label_BT, segment_BT))
    length = token_BT.shape[1]

    def ahead(x_BT: jax.Array, distance: int) -> jax.Array:
        return jnp.pad(x_BT[:, distance:], [(0, 0), (0, min(distance, length))])

    def shifted(distance: int) -> jax.Array:
        same = (ahead(segment_BT, distance) == segment_BT) & (segment_BT != 0)
        token = ahead(token_BT, distance).astype(jnp.int32)
        return jnp.where(ahead(is_label_BT, distance) & same, token, IGNORE)

    return jnp.stack([shifted(distance) for distance in range(1, num_heads + 2)], axis=-1)


def draft_ids(labels: jax.Array, token_map: jax.Array, vocab_size: int) -> jax.Array:
    """Labels as ids of the Medusa heads' draft vocabulary.

    Args:
      labels: int32, of any shape, token ids; what is negative stays as it is.
      token_map: int32 [Vd], the token of each draft id.
      vocab_size: V.

    Returns:
      int32, in the shape of the labels; OUTSIDE for those that the vocabulary does not have.
    """
    draft_id_V = jnp.full((vocab_size,), OUTSIDE, jnp.int32)
    draft_id_V = draft_id_V.at[token_map].set(jnp.arange(token_map.shape[0], dtype=jnp.int32))
    return jnp.where(labels < 0, labels, draft_id_V[jnp.maximum(labels, 0)])


def to_draft_vocabulary(labels: jax.Array, token_map: jax.Array, vocab_size: int) -> jax.Array:
    """`draft_ids` of the Medusa heads' labels; the base head's, the first of J, stay."""
    heads = draft_ids(labels[..., 1:], token_map, vocab_size)
    return jnp.concatenate([labels[..., :1], heads], axis=-1)


def count_labels(labels: jax.Array) -> jax.Array:
    """How many labels each head can learn: int [..., J] -> float32 [J]."""
    return (labels >= 0).sum(axis=tuple(range(labels.ndim - 1))).astype(jnp.float32)
