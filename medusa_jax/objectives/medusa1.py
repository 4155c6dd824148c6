"""MEDUSA-1: the heads learn, the backbone stays as it is (paper, section 2.2.1)."""

import jax
import jax.numpy as jnp


def medusa1_loss(loss_M: jax.Array, head_decay: float, first: jax.Array | int = 1) -> jax.Array:
    """Sum over k = 1..M of lambda_k L_k with lambda_k = head_decay ** k (paper, equation 1).

    A head that looks further ahead has a larger loss and a smaller weight.

    Args:
      loss_M: float32, L_k: head k's mean cross-entropy with y_{t+k+1}.
      head_decay: 0.8 in the paper.
      first: number of the first of these heads, where they are only some of all.

    Returns:
      float32 scalar.
    """
    k_M = (first + jnp.arange(loss_M.shape[0], dtype=jnp.int32)).astype(jnp.float32)
    lambda_M = jnp.float32(head_decay) ** k_M
    return (lambda_M * loss_M).sum()
