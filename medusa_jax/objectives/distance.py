"""Distance from a teacher: what DSpark's heads learn from (arXiv 2607.05147)."""

import jax
import jax.numpy as jnp

from medusa_jax.objectives.cross_entropy import cross_entropy

_OF_TOKEN = 0.1  # share of the cross-entropy with the label's token


def l1_loss(logits: jax.Array, labels: jax.Array, teacher: jax.Array) -> jax.Array:
    """0.1 CE(label) + 0.9 sum over v of |p_v - q_v|, position by position.

    A draft from p is accepted under q with probability 1 - L1 / 2, averaged over its tokens: this
    is what the distance is about, whereas a cross-entropy looks at the likely tokens of q alone.

    Args:
      logits: float32 [..., V], of p.
      labels: int32 [...], ids within V; below 0 where there is none.
      teacher: float32 [..., V], logits of q.

    Returns:
      float32 [...]; 0 where there is no label.
    """
    distance = jnp.abs(jax.nn.softmax(logits) - jax.nn.softmax(teacher)).sum(-1)
    loss = _OF_TOKEN * cross_entropy(logits, labels) + (1 - _OF_TOKEN) * distance
    return jnp.where(labels >= 0, loss, 0.0)
