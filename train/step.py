"""One update of the parameters, and one evaluation, as functions that compile once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medusa_jax.objectives.blockwise import sum_over_blocks
from medusa_jax.objectives.labels import count_labels
from medusa_jax.objectives.metrics import metrics
from medusa_jax.objectives.objective import Objective
from medusa_jax.tree.build import Tree

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Step:
    """How a state changes with a batch.

    Gradients are float32 sums wherever they are added up: within a device, over the devices of a
    mesh, and over the parts of a batch, whatever the network computes in. They have the dtype of
    what is trained, so that has to be float32.

    Attributes:
      objective: what is minimised.
      optimizer: updates the trained parameters.
      heads_coef: lambda_0 as a function of the step (paper, equation 2).
      accumulate: number of parts into which a batch is cut; one is in memory at a time.
      seed: for dropout.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    heads_coef: optax.Schedule
    accumulate: int = 1
    seed: int = 0

    def init(self, params: dict[str, Any]) -> State:
        """The state before the first step.

        Args:
          params: what is trained.

        Raises:
          ValueError: some of it is not float32.
        """
        dtypes = {jnp.dtype(x.dtype).name for x in jax.tree.leaves(params)}
        if dtypes != {"float32"}:
            raise ValueError(f"trained parameters are {', '.join(sorted(dtypes))}, not float32")
        return {
            "params": params,
            "opt": self.optimizer.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    def update(
        self,
        state: State,
        frozen: dict[str, Any],
        batch: Any,
        tree: Tree,
        proceed: jax.Array | bool = True,
    ) -> tuple[State, dict[str, jax.Array]]:
        """One step.

        Args:
          state: {"params", "opt", "step"}.
          frozen: the parameters that are not trained.
          batch: see `Objective.loss`.
          tree: whose expected tokens per step are reported.
          proceed: bool scalar; False: the state stays the same, as the step before this one failed.

        Returns:
          The next state (the same one if the loss or a gradient is not finite) and the metrics:
          "loss", those of `medusa_jax.objectives.metrics.metrics`, "heads_coef", "grad_norm/GROUP"
          before clipping, and "is_good", whether the state has changed.
        """
        labels = self.objective.labels(frozen | state["params"], batch)
        count = count_labels(labels)
        coef = self.heads_coef(state["step"])
        key = jax.random.fold_in(jax.random.key(self.seed), state["step"])

        def gradient(part_and_number):
            (part, part_labels), number = part_and_number
            return jax.value_and_grad(self._loss, has_aux=True)(
                state["params"],
                frozen,
                (part, part_labels, count, coef, jax.random.fold_in(key, number), tree),
            )

        (loss, sums), grads = _add_over_parts(gradient, (batch, labels), self.accumulate)
        norms = {f"grad_norm/{name}": optax.tree.norm(part) for name, part in grads.items()}
        is_good = jnp.isfinite(jnp.stack([loss, *norms.values()])).all() & proceed
        state = jax.lax.cond(is_good, self._advance, lambda state, grads: state, state, grads)
        report: dict[str, Any] = (
            {"loss": loss, "is_good": is_good} | metrics(sums, count) | {"heads_coef": coef} | norms
        )
        return state, report

    def _advance(self, state: State, grads: dict[str, Any]) -> State:
        updates, opt = self.optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt": opt, "step": state["step"] + 1}

    def evaluate(
        self, params: dict[str, Any], batch: Any, tree: Tree
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Sums over a batch (see `Objective.loss`) and its `count_labels`, without dropout."""
        labels = self.objective.labels(params, batch)
        count = count_labels(labels)
        one = jnp.ones_like(count)  # sums alone are wanted, not the loss

        def sums(part_and_number):
            part, part_labels = part_and_number[0]
            return self.objective.loss(params, part, part_labels, one, tree=tree)[1]

        return _add_over_parts(sums, (batch, labels), self.accumulate), count

    def _loss(self, trained, frozen, args):
        batch, labels, count, coef, key, tree = args
        return self.objective.loss(
            frozen | trained, batch, labels, count, heads_coef=coef, key=key, tree=tree
        )


def _add_over_parts(function: Callable[[Any], Any], arrays: Any, parts: int) -> Any:
    """The sum of function((part, number)) over equal parts of the batch axis."""
    if parts == 1:
        return function((arrays, 0))
    # Part i takes every `parts`-th row: each device then keeps rows that it already has.
    cut = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), arrays
    )
    numbers = jnp.arange(parts, dtype=jnp.int32)
    return sum_over_blocks(lambda part: (function(part), None), (cut, numbers))[0]
