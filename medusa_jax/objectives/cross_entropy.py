"""Cross-entropy with a label, or with a teacher: L_k of the paper's section 2.2."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array, labels: jax.Array, teacher: jax.Array | None = None
) -> jax.Array:
    """-log p(label), position by position.

    Args:
      logits: float32 [..., V].
      labels: int32 [...], ids within V; below 0 where there is none.
      teacher: float32 [..., V], logits of a distribution to learn in place of the label's token
        (soft labels). A position without a label does not count then either.

    Returns:
      float32 [...]; 0 where there is no label.
    """
    if teacher is None:
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    else:
        entropy = optax.softmax_cross_entropy(logits, jax.nn.softmax(teacher))
    return jnp.where(labels >= 0, entropy, 0.0)
