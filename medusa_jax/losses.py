"""Training objectives: pure functions of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

IGNORE = -100


def shift_labels(token_T: np.ndarray, is_label_T: np.ndarray, num_heads: int) -> np.ndarray:
    """Labels of every Medusa head at every position of one sequence.

    Head k = 1..M at position t predicts the token at t + k + 1 (paper, equation 1); the base head,
    which predicts t + 1, is not among them.

    Args:
      token_T: int token ids.
      is_label_T: bool, tokens that count as labels (the assistant's).
      num_heads: M.

    Returns:
      int32 [T, M]; IGNORE where the sequence ends before the label, or the label does not count.
    """
    length = len(token_T)
    labels_TM = np.full((length, num_heads), IGNORE, np.int32)
    for head in range(num_heads):
        shift = head + 2
        target = np.where(is_label_T[shift:], token_T[shift:], IGNORE)
        labels_TM[: max(length - shift, 0), head] = target
    return labels_TM


def medusa1_loss(
    logits_NMV: jax.Array, labels_NM: jax.Array, decay: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum over heads k of decay^k times the mean cross-entropy of head k (paper, equation 1).

    Args:
      logits_NMV: float32, the heads' logits at N positions.
      labels_NM: int32 ids within V, or IGNORE.
      decay: lambda_k = decay ** k, k from 1.

    Returns:
      The loss (float32 scalar) and, per head [M]: "loss", and "top1", "top5", the share of labels
      among the 1 and 5 most likely tokens.
    """
    heads = labels_NM.shape[1]
    valid_NM = labels_NM != IGNORE
    safe_NM = jnp.where(valid_NM, labels_NM, 0)
    count_M = jnp.maximum(valid_NM.sum(axis=0), 1).astype(jnp.float32)
    entropy_NM = optax.softmax_cross_entropy_with_integer_labels(logits_NMV, safe_NM)
    loss_M = jnp.where(valid_NM, entropy_NM, 0.0).sum(axis=0) / count_M
    weight_M = jnp.asarray([decay ** (k + 1) for k in range(heads)], jnp.float32)
    own_NM1 = jnp.take_along_axis(logits_NMV, safe_NM[:, :, None], axis=-1)
    better_NM = (logits_NMV > own_NM1).sum(axis=-1)
    metrics = {"loss": loss_M}
    for k in (1, 5):
        hits_M = (valid_NM & (better_NM < k)).sum(axis=0)
        metrics[f"top{k}"] = hits_M.astype(jnp.float32) / count_M
    return (weight_M * loss_M).sum(), metrics
