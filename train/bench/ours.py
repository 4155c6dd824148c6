"""Our side: the steps of `train.loop` on one batch, without logs, checkpoints or evaluations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax import MedusaLM
from medusa_jax.mesh import make_mesh
from medusa_jax.objectives.objective import Objective
from medusa_jax.plan.chips import peak_flops
from medusa_jax.tree.presets import load_tree
from train.bench.job import Job
from train.data.padded import following_tokens
from train.distributed import global_batch
from train.flops import flops_per_token
from train.setup import build, compiled_update


class OurTrainer:
    """Trains the heads, and with "medusa2" the backbone.

    Attributes:
      name: "streamed": the backbone runs at every step; "cached": it has run before.
      flops_per_step: the model's; what remat computes again does not count.
      peak_flops: per second, all devices together; None where that is not known.
    """

    def __init__(self, job: Job, lm: MedusaLM, batch: dict[str, Any], name: str) -> None:
        settings = job.settings(name)
        self.name = name
        self._mesh = make_mesh()
        experiment = build(settings, lm, self._mesh, None)
        self._update, self._state = compiled_update(experiment, self._mesh), experiment.state
        self._frozen = experiment.frozen
        self._tree = load_tree(settings.tree, settings.num_heads)
        objective = experiment.step.objective
        self._batch = cached_batch(objective, lm.params, batch) if name == "cached" else batch
        self.flops_per_step = job.tokens * flops_per_token(
            lm.config, experiment.heads, job.seq_len, experiment.work
        )
        peak = peak_flops(jax.devices()[0].device_kind)
        self.peak_flops = None if peak is None else peak * self._mesh.size

    def step(self) -> float:
        """One update; waits for it, and returns the loss that it started from."""
        batch = global_batch(self._mesh, self._batch)
        self._state, report = self._update(self._state, self._frozen, batch, self._tree)
        return float(jax.block_until_ready((self._state, report))[1]["loss"])


def cached_batch(
    objective: Objective, backbone: dict[str, Any], batch: dict[str, Any]
) -> dict[str, Any]:
    """The positions of a packed batch as `train.data.hidden_states` keeps them."""
    params = {"backbone": backbone}
    hidden_BTD = jax.jit(lambda *args: objective.hidden(*args).astype(jnp.float16))(params, batch)
    return {
        "hidden": np.asarray(hidden_BTD)[:, :, None],
        "next": following_tokens(batch["token"], objective.heads.num_heads),
        "labels": np.asarray(objective.labels({}, batch)),
    }
