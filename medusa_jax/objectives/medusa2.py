"""MEDUSA-2: the heads and the backbone learn together (paper, section 2.2.2)."""

import jax


def medusa2_loss(
    base_loss: jax.Array, medusa1_loss: jax.Array, lambda_0: jax.Array | float
) -> jax.Array:
    """L_LM + lambda_0 L_MEDUSA-1 (paper, equation 2).

    Args:
      base_loss: float32 scalar, L_LM: the base head's mean cross-entropy with y_{t+1}; in
        self-distillation the divergence from the original model stands in its place.
      medusa1_loss: float32 scalar, equation 1.
      lambda_0: weight of the heads (`config.heads_coef`). The paper's text once calls it the weight
        of the backbone's loss; its formula and the authors' code put it here.

    Returns:
      float32 scalar.
    """
    return base_loss + lambda_0 * medusa1_loss
