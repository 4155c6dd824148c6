"""What training reports: means over labels."""

import jax
import jax.numpy as jnp

from medusa_jax.objectives.accuracy import expected_tokens


def metrics(sums: dict[str, jax.Array], count_J: jax.Array) -> dict[str, jax.Array]:
    """Means over labels from the sums of a whole batch.

    Args:
      sums: of `Objective.loss`, added up over the parts of the batch.
      count_J: float32, `count_labels` of its labels.

    Returns:
      "head_loss", "head_top1" .. "head_top5" (float32 [M]) and, where there are sums for them,
      "lm_loss" or "kl", and "accepted", the `expected_tokens` per step of the tree (scalars).
      Labels outside a draft vocabulary have no loss, but are misses.
    """
    count_J, labels_M = jnp.maximum(count_J, 1), jnp.maximum(sums["labels"], 1)
    out = {"head_loss": sums["head_loss"] / count_J[1:]}
    for k, hits_M in enumerate(sums["hits"], 1):
        out[f"head_top{k}"] = hits_M / labels_M
    for name in ("lm_loss", "kl"):
        if name in sums:
            out[name] = sums[name] / count_J[0]
    if "followed" in sums:
        out["accepted"] = expected_tokens(sums["followed"], count_J[0])
    return out
