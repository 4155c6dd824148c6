"""AdamW with a learning rate per group of parameters, and the ramps of the heads' loss."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Moments = Literal["float32", "bfloat16", "factored"]


def learning_rate_schedule(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then half a cosine to zero at the last step."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(steps, warmup_steps + 1))


def heads_schedule(kind: str, coef: float, ramp_steps: int) -> optax.Schedule:
    """lambda_0, the weight of the heads' loss in MEDUSA-2, per step (paper, section 2.2.2).

    Args:
      kind: "constant"; "linear" or "sine" (a quarter of a wave) to rise from zero.
      coef: lambda_0, or where the rise ends.
      ramp_steps: steps that the rise takes.
    """
    if kind == "constant":
        return lambda step: jnp.asarray(coef, jnp.float32)

    def rising(step):
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / max(ramp_steps, 1), 1.0)
        return coef * (jnp.sin(done * (math.pi / 2)) if kind == "sine" else done)

    return rising


def make_optimizer(
    *,
    steps: int,
    learning_rate: float,
    head_lr_multiplier: float,
    warmup_steps: int,
    weight_decay: float,
    grad_clip: float,
    moments: Moments,
) -> optax.GradientTransformation:
    """AdamW on {"heads", "backbone", "lora"}; the heads' rate is a multiple of the others'.

    Biases have the rate of their group (the original trainer leaves the heads' at the backbone's)
    and, like norms, no weight decay.

    Args:
      steps: of the schedule.
      learning_rate: peak, of backbone or adapters.
      head_lr_multiplier: the heads' peak is this times as high (paper: 4).
      warmup_steps: of both groups.
      weight_decay: of matrices.
      grad_clip: bound on the norm of all gradients together.
      moments: dtype of AdamW's first moments; or "factored": second moments kept as the sums of
        rows and columns, and no first moments (Adafactor).
    """

    def group(multiplier: float) -> optax.GradientTransformation:
        schedule = learning_rate_schedule(learning_rate * multiplier, warmup_steps, steps)
        if moments == "factored":
            scaler = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
        else:
            scaler = optax.scale_by_adam(mu_dtype=jnp.dtype(moments))
        decay = optax.add_decayed_weights(weight_decay, mask=_is_matrix)
        return optax.chain(scaler, decay, optax.scale_by_learning_rate(schedule))

    groups: Any = {"heads": group(head_lr_multiplier), "rest": group(1.0)}
    return optax.chain(optax.clip_by_global_norm(grad_clip), optax.partition(groups, _group_names))


def _group_names(params: dict[str, Any]) -> dict[str, Any]:
    return {
        name: jax.tree.map(lambda _, name=name: "heads" if name == "heads" else "rest", part)
        for name, part in params.items()
    }


def _is_matrix(params: Any) -> Any:
    def decays(path, leaf) -> bool:
        return leaf.ndim >= 2 and path[-1].key != "bias"

    return jax.tree_util.tree_map_with_path(decays, params)
