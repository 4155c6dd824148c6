"""From settings to all that a training loop needs: networks, parameters, objective, optimizer."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medusa_jax import MedusaLM
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.gpu import product_options
from medusa_jax.nn.branch import can_learn_to_see, extended
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.nn.lora import init_lora
from medusa_jax.nn.quantize import quantize_backbone
from medusa_jax.objectives.objective import Objective
from medusa_jax.pin import Pin
from medusa_jax.sharding import param_shardings, replicated, with_shardings
from train.flops import Work
from train.optimizer import heads_warmup, make_optimizer
from train.settings import Settings
from train.step import State, Step


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configured training run before its first step.

    Attributes:
      step: how the state changes with a batch.
      heads: the Medusa heads.
      state: parameters that are trained, optimizer state and step, in their shards.
      frozen: the other parameters, in theirs.
      work: what a step has to compute, for `train.flops` (recomputing layers does not count).
    """

    step: Step
    heads: MedusaConfig
    state: State
    frozen: dict[str, Any]
    work: Work


def build(settings: Settings, lm: MedusaLM, mesh: Mesh, token_map: np.ndarray | None) -> Experiment:
    """Makes the heads, the objective, the optimizer and the state.

    Args:
      settings: of the run.
      lm: the backbone, in its shards, and the heads to start from, if any. With abstract parameters
        the experiment is abstract, too: what `train.plan` compiles.
      mesh: of the devices.
      token_map: int32 [Vd], the draft vocabulary of fresh heads, if they have one.

    Raises:
      UserError: the heads to start from are not those of the settings.
    """
    heads = heads_config(settings, lm, token_map)
    trained, frozen = _split(settings, lm, heads, token_map, mesh)
    step = Step(
        _objective(settings, lm, heads, mesh),
        _optimizer(settings),
        heads_warmup(
            settings.heads_schedule,
            settings.heads_coef,
            round(settings.heads_ramp * settings.num_steps),
        ),
        settings.accumulate,
        settings.seed,
    )
    work = Work(
        settings.objective,
        settings.lora_rank,
        cached=settings.hidden_states == "cached",
        soft_labels=settings.soft_labels,
    )
    state = _sharded(mesh, step.init, trained, abstract=_is_abstract(lm))
    return Experiment(step, heads, state, frozen, work)


def heads_config(settings: Settings, lm: MedusaLM, token_map: np.ndarray | None) -> MedusaConfig:
    """The heads that the settings ask for."""
    wanted = settings.heads_config(
        lm.config.hidden_size,
        lm.config.vocab_size if token_map is None else len(token_map),
        bias=lm.heads_config is None or lm.heads_config.bias,
        draft_vocab=token_map is not None,
    )
    if lm.heads_config is None:
        return wanted
    _check_draft_vocab(settings, lm.heads_config)
    if lm.heads_config == wanted or can_learn_to_see(lm.heads_config, wanted):
        return wanted
    for field in dataclasses.fields(wanted):
        asked, found = (getattr(c, field.name) for c in (wanted, lm.heads_config))
        if asked != found:
            raise UserError(
                f"the heads in {settings.medusa} have {field.name} {found}, the configuration asks "
                f"for {asked}: start from other heads or change the configuration"
            )
    return wanted


def _check_draft_vocab(settings: Settings, found: MedusaConfig) -> None:
    """Refuses heads with more draft tokens than asked for; scarce data may have left them fewer."""
    if found.draft_vocab and settings.draft_vocab < found.vocab_size:
        raise UserError(
            f"the heads in {settings.medusa} propose from {found.vocab_size} tokens, the "
            f"configuration asks for config.draft_vocab={settings.draft_vocab}: set "
            f"config.draft_vocab={found.vocab_size}, or start from other heads"
        )


def _split(
    settings: Settings,
    lm: MedusaLM,
    heads: MedusaConfig,
    token_map: np.ndarray | None,
    mesh: Mesh,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters that are trained, in float32, and those that are not."""
    trained: dict[str, Any] = {"heads": _heads_params(lm, heads, token_map, mesh, settings.seed)}
    frozen: dict[str, Any] = {}
    if token_map is not None:
        token_map = token_map.astype(np.int32)
        frozen["token_map"] = _sharded(mesh, jnp.asarray, token_map, abstract=_is_abstract(lm))
    if settings.lora_rank and settings.objective != "medusa1":
        trained["lora"] = _sharded(
            mesh,
            lambda key: init_lora(lm.params, settings.lora_rank, key, jnp.float32),
            jax.random.key(settings.seed),
            abstract=_is_abstract(lm),
        )
    whole = settings.objective == "medusa2" and not settings.lora_rank
    if settings.quantize == "none":
        (trained if whole else frozen)["backbone"] = lm.params
    else:
        quantize = functools.partial(quantize_backbone, kind=settings.quantize)
        frozen["backbone"] = _sharded(mesh, quantize, lm.params, abstract=_is_abstract(lm))
    return trained, frozen


def _heads_params(
    lm: MedusaLM, heads: MedusaConfig, token_map: np.ndarray | None, mesh: Mesh, seed: int
) -> dict[str, Any]:
    """The given heads, or fresh ones, in float32 and in their shards."""

    def fresh(lm_head_VD: jax.Array) -> dict[str, Any]:
        return init_heads(heads, lm_head_VD, jnp.float32, token_map, jax.random.key(seed))

    def given(inputs: Any) -> dict[str, Any]:
        params, lm_head_VD = inputs
        params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        return params if heads == lm.heads_config else extended(params, fresh(lm_head_VD))

    lm_head_VD = lm_head_weight(lm.params)
    if lm.heads_params is None:
        params = _sharded(mesh, fresh, lm_head_VD, abstract=_is_abstract(lm))
    else:
        inputs = lm.heads_params, lm_head_VD
        params = _sharded(mesh, given, inputs, abstract=_is_abstract(lm))
    return {name: part for name, part in params.items() if name != "token_map"}


def _is_abstract(lm: MedusaLM) -> bool:
    """Whether the parameters are shapes alone, of a run that is only planned."""
    return isinstance(jax.tree.leaves(lm.params)[0], jax.ShapeDtypeStruct)


def _sharded(
    mesh: Mesh, function: Callable[[Any], Any], argument: Any, *, abstract: bool = False
) -> Any:
    """function(argument), every array made in its shards: no device ever holds the whole.

    Abstract: its shapes, dtypes and shardings alone.
    """
    shapes = jax.eval_shape(function, argument)
    shardings = param_shardings(mesh, shapes)
    if abstract:
        return with_shardings(shapes, shardings)
    return jax.jit(function, out_shardings=shardings)(argument)


def _objective(settings: Settings, lm: MedusaLM, heads: MedusaConfig, mesh: Mesh) -> Objective:
    return Objective(
        lm.config,
        heads,
        settings.objective,
        head_decay=settings.head_decay,
        head_labels=settings.head_labels,
        stop_lm_head=settings.stop_lm_head,
        dtype=settings.dtype,
        remat=False if settings.remat == "none" else settings.remat,
        lora_scale=settings.lora_scale,
        lora_dropout=settings.lora_dropout,
        pin=Pin(mesh),
    )


def _optimizer(settings: Settings):
    return make_optimizer(
        steps=settings.num_steps,
        learning_rate=settings.learning_rate,
        head_lr_multiplier=settings.head_lr_multiplier,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        grad_clip=settings.grad_clip,
        moments=settings.moments,
    )


def abstract_state(state: State) -> Any:
    """Shapes, dtypes and shardings of a state, to restore one like it."""
    return with_shardings(state, jax.tree.map(lambda x: x.sharding, state))


def compiled_update(experiment: Experiment, mesh: Mesh) -> Callable[..., Any]:
    """`Step.update` under jit: it takes the old state's memory and keeps its shardings."""
    shardings = jax.tree.map(lambda x: x.sharding, experiment.state)
    return jax.jit(
        experiment.step.update,
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=_options(experiment),
    )


def compiled_evaluate(experiment: Experiment, mesh: Mesh) -> Callable[..., Any]:
    """`Step.evaluate` under jit; every device has the sums."""
    return jax.jit(
        experiment.step.evaluate,
        out_shardings=replicated(mesh),
        compiler_options=_options(experiment),
    )


def _options(experiment: Experiment) -> dict[str, Any]:
    return product_options(experiment.step.objective.dtype)
