"""A training run of shapes alone: the program of its step, and what it works on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.plan.dumped import compile_with_text
from medusa_jax.sharding import batch_sharding, param_shardings, replicated, with_shardings
from medusa_jax.tree.presets import load_tree
from train.run import check_batch, check_context, params_dtype
from train.settings import Settings
from train.setup import Experiment, build, compiled_update

_SOME_STEPS = 1000  # for a run given in epochs: only schedules depend on them


@dataclasses.dataclass(frozen=True)
class TrainProgram:
    """`Step.update` and its abstract arguments.

    Attributes:
      experiment: the run.
      arguments: state, frozen parameters, batch and tree, with shardings.
      mesh: the one that they lie on.
    """

    experiment: Experiment
    arguments: tuple[Any, ...]
    mesh: Mesh

    def compiled(self) -> Any:
        """Compiles it, as the training loop does."""
        lowered = compiled_update(self.experiment, self.mesh).lower(*self.arguments)
        return compile_with_text(lowered)

    def parts(self) -> dict[str, Any]:
        """What takes memory, by name."""
        state, frozen, batch, _ = self.arguments
        trained = {f"{name}, trained": value for name, value in state["params"].items()}
        return {**trained, "optimizer": state["opt"], **frozen, "batch": batch}


def train_program(settings: Settings, config: LlamaConfig, mesh: Mesh) -> TrainProgram:
    """The program of a run that starts from fresh heads.

    Args:
      settings: of the run.
      config: of its backbone.
      mesh: of devices to compile for.

    Raises:
      UserError: batch and mesh, or length and context, do not fit each other.
    """
    check_batch(settings, mesh)
    check_context(settings, config)
    settings = dataclasses.replace(settings, steps=settings.steps or _SOME_STEPS, medusa=None)
    size = min(settings.draft_vocab, config.vocab_size)
    token_map = np.arange(size) if size else None
    experiment = build(settings, _abstract_lm(settings, config, mesh), mesh, token_map)
    tree = jax.eval_shape(lambda: load_tree(settings.tree, settings.num_heads))
    whole = replicated(mesh)
    arguments = (
        experiment.state,
        experiment.frozen,
        _batch(settings, config, mesh),
        with_shardings(tree, jax.tree.map(lambda _: whole, tree)),
    )
    return TrainProgram(experiment, arguments, mesh)


def _abstract_lm(settings: Settings, config: LlamaConfig, mesh: Mesh) -> MedusaLM:
    shapes = abstract_params(config, params_dtype(settings))
    return MedusaLM(
        config=config,
        params=with_shardings(shapes, param_shardings(mesh, shapes)),
        dtype=params_dtype(settings),
    )


def _batch(settings: Settings, config: LlamaConfig, mesh: Mesh) -> dict[str, Any]:
    """A batch as `train.data.inputs` makes it."""
    rows, length, heads = settings.batch_size, settings.seq_len, settings.num_heads
    kinds = {"token": jnp.int32, "is_label": jnp.bool_, "segment": jnp.int32, "position": jnp.int32}
    shapes = {name: ((rows, length), dtype) for name, dtype in kinds.items()}
    if settings.hidden_states == "cached":
        places = heads + 1 if settings.soft_labels else 1
        shapes = {
            "hidden": ((rows, length, places, config.hidden_size), jnp.float16),
            "next": ((rows, length, heads), jnp.int32),
            "labels": ((rows, length, heads + 1), jnp.int32),
        }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh, len(shape)))
        for name, (shape, dtype) in shapes.items()
    }
