"""Evaluations of a run on its held-out data."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medusa_jax.objectives.metrics import metrics as means
from medusa_jax.tree.build import Tree
from train.distributed import global_batch
from train.setup import Experiment, compiled_evaluate


class HeldOut:
    """The held-out batches of a run, and the compiled program that measures a state on them."""

    def __init__(
        self, experiment: Experiment, batches: list[dict[str, Any]], tree: Tree, mesh: Mesh
    ) -> None:
        """Compiles nothing yet.

        Args:
          experiment: of the run.
          batches: this process's part of each; none: nothing was held out.
          tree: the one whose expected tokens per step are reported.
          mesh: of the devices.
        """
        self._frozen, self._batches = experiment.frozen, batches
        self._tree, self._mesh = tree, mesh
        self._evaluate = compiled_evaluate(experiment, mesh)

    def __bool__(self) -> bool:
        return bool(self._batches)

    def report(self, params: dict[str, Any]) -> dict[str, Any]:
        """Means over all held-out labels, the same on every process.

        Args:
          params: those that are trained.

        Returns:
          The means of `medusa_jax.objectives.metrics.metrics`, as NumPy arrays.
        """
        total: Any = None
        for batch in self._batches:
            part = self._evaluate(
                self._frozen | params, global_batch(self._mesh, batch), self._tree
            )
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        sums, count = total
        return jax.device_get(means(sums, jnp.maximum(count, 1)))
