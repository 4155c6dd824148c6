"""Self-distillation: the backbone stays close to the model that it was (paper, section 2.3.2)."""

import jax
import jax.numpy as jnp


def self_distill_loss(original: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """KL(p_original || p), position by position; it takes the place of L_LM in equation 2.

    The original model is the network without its adapters. It must not learn: callers stop the
    gradient of whatever `original` is made of.

    Args:
      original: float32 [..., V], the original model's logits.
      logits: float32 [..., V], those of the model under training.
      labels: int32 [...], below 0 at positions that do not count.

    Returns:
      float32 [...]; 0 where there is no label.
    """
    log_p = jax.nn.log_softmax(original)
    divergence = (jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits))).sum(axis=-1)
    return jnp.where(labels >= 0, divergence, 0.0)
