"""Plans training: compiles a step for devices that are not there, and says what it takes."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.io.atomic import write_text
from medusa_jax.plan.build import build
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.estimate import TrainPlan, common
from medusa_jax.plan.parse import parse
from medusa_jax.plan.speed import training_speed
from medusa_jax.plan.topology import Topology
from train.flops import flops_per_token
from train.planning.experiment import TrainProgram, train_program
from train.settings import Settings

_CHANGE = (
    "to make it fit: more devices along config.mesh.fsdp, a higher config.accumulate, "
    "config.remat=nothing, a shorter config.seq_len, config.moments=bfloat16 or factored, "
    "config.lora_rank and config.quantize for medusa2, or a topology with more memory"
)


def plan_training(
    topology: Topology,
    settings: Settings,
    config: LlamaConfig,
    mesh: Mesh,
    hlo: Path | None = None,
) -> TrainPlan:
    """What a step of training takes.

    Args:
      topology: to compile for.
      settings: of the run.
      config: of its backbone.
      mesh: of the topology's devices.
      hlo: a folder for the optimized program; None: it is not kept.

    Raises:
      UserError: settings and mesh do not fit each other.
    """
    program = train_program(settings, config, mesh)
    built = build(topology, program.compiled, program.parts())
    costs = None
    speed: dict[str, Any] = dict.fromkeys(("tokens_per_second_per_device", "mfu_bound"))
    if built.text is not None:
        if hlo is not None:
            write_text(hlo / "update.txt", built.text)
        costs = costs_of(parse(built.text))
        tokens = settings.batch_size * settings.seq_len / mesh.size
        speed = training_speed(costs, topology.chip, tokens, _flops_per_token(program, settings))
    values: dict[str, Any] = common(topology, mesh.size, built, costs, _CHANGE)
    return TrainPlan(**values, **speed)


def _flops_per_token(program: TrainProgram, settings: Settings) -> float:
    run = program.experiment
    return flops_per_token(run.step.objective.llama, run.heads, settings.seq_len, run.work)
