"""AdamW with a learning rate per group of parameters, and the warm-up of the heads (lambda_0)."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

Moments = Literal["float32", "bfloat16", "factored"]


def learning_rate_schedule(peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """The learning rate: a linear warm-up to its peak, then half a cosine to 0 at the last step."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, max(steps, warmup_steps + 1))


def heads_warmup(kind: str, coef: float, steps: int) -> optax.Schedule:
    """The heads' warm-up: lambda_0, the weight of their loss in MEDUSA-2, at every step.

    Fresh heads have large losses, whose gradients would distort the backbone. The paper (section
    2.2.2) therefore trains the heads first ("two-stage": a run of MEDUSA-1, then "constant" here),
    or lets their weight grow from zero ("one-stage": "sine"). Not to be confused with the
    learning rate's own warm-up, see `learning_rate_schedule`.

    Args:
      kind: "constant"; "linear"; or "sine", a quarter of a wave (`config.heads_schedule`).
      coef: lambda_0 at the end of the warm-up (`config.heads_coef`).
      steps: how long the weight grows (`config.heads_ramp` times the steps of the run).
    """
    if kind == "constant":
        return lambda step: jnp.asarray(coef, jnp.float32)

    def rising(step):
        done = jnp.minimum(jnp.asarray(step, jnp.float32) / max(steps, 1), 1.0)
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
    """AdamW for {"heads", "backbone", "lora"}, with a higher learning rate for the heads.

    Biases learn at the rate of their group (the original trainer leaves the heads' biases at the
    backbone's rate) and, like norms, have no weight decay.

    Args:
      steps: length of the run, over which the learning rate falls to 0.
      learning_rate: peak for the backbone or its adapters.
      head_lr_multiplier: the heads' peak is this many times higher (the paper: 4).
      warmup_steps: of the learning rates, not of lambda_0 (see `heads_warmup`).
      weight_decay: applied to matrices only.
      grad_clip: bound on the norm of all gradients together.
      moments: dtype of AdamW's first moments; "factored" keeps row and column sums of the second
        moments and no first moments (Adafactor).
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
