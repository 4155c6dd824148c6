"""MEDUSA-1: the heads learn, the backbone stays as it is (paper, section 2.2.1)."""

import jax
import jax.numpy as jnp


def medusa1_loss(loss_M: jax.Array, head_decay: float) -> jax.Array:
    """Sum over k = 1..M of lambda_k L_k with lambda_k = head_decay ** k (paper, equation 1).

    A head that looks further ahead has a larger loss and a smaller weight.

    Args:
      loss_M: float32, L_k: head k's mean cross-entropy with y_{t+k+1}.
      head_decay: 0.8 in the paper.

    Returns:
      float32 scalar.
    """
    lambda_M = jnp.asarray([head_decay**k for k in range(1, loss_M.shape[0] + 1)], jnp.float32)
    return (lambda_M * loss_M).sum()
