"""The answer: facts of a compiled program, and estimates that follow from them (docs/plan.md)."""

import dataclasses
from typing import Any

from medusa_jax.plan.build import Built
from medusa_jax.plan.chips import Chip
from medusa_jax.plan.collectives import COLLECTIVES
from medusa_jax.plan.costs import Costs
from medusa_jax.plan.speed import roofline_seconds
from medusa_jax.plan.topology import Topology


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a step does, per device; None where it does not fit or nobody estimates it.

    Attributes:
      topology: the devices' name, as it was given.
      device_kind: what JAX calls one of them.
      num_devices: how many the program runs on; a mesh may leave some unused.
      hbm_bytes: what a program may take of a device's memory.
      argument_bytes: of its arguments.
      temp_bytes: of its temporaries.
      total_bytes: arguments + results - those in the arguments' place + temporaries + code.
      fits: whether that is no more than `hbm_bytes`, and the compiler agrees.
      compile_seconds: on the machine that planned.
      flops: operations of a step's matrix products, loops as often as they run.
      hbm_traffic_bytes: counted from the program, an estimate.
      collective_bytes: of the results of a step's collectives, by kind.
      step_cycles_compiler: the compiler's own estimate, which leaves out waiting for memory.
      step_ms_roofline: a bound: the longest of operations, memory traffic and wire at their peaks.
      takes_space: where it does not fit, what takes the space, in lines; see `Built.takes_space`.
      change: where it does not fit, what to change.
    """

    topology: str
    device_kind: str
    num_devices: int
    hbm_bytes: int
    argument_bytes: int | None
    temp_bytes: int | None
    total_bytes: int | None
    fits: bool
    compile_seconds: float
    flops: int | None
    hbm_traffic_bytes: int | None
    collective_bytes: dict[str, int] | None
    step_cycles_compiler: int | None
    step_ms_roofline: float | None
    takes_space: tuple[str, ...] = ()
    change: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values, by the attributes' names."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodePlan(Plan):
    """A plan of decoding.

    Attributes:
      overhead: estimated time of a step over that of a plain one.
      tokens_per_second: of all rows, at the given tokens per step.
    """

    overhead: float | None
    tokens_per_second: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainPlan(Plan):
    """A plan of training.

    Attributes:
      tokens_per_second_per_device: estimated.
      mfu_bound: model FLOPs / (peak x the longest of compute, memory and wire time); remat's second
        pass counts as time and not as model FLOPs.
    """

    tokens_per_second_per_device: float | None
    mfu_bound: float | None


def common(
    topology: Topology, num_devices: int, built: Built, costs: Costs | None, change: str
) -> dict[str, Any]:
    """The attributes of `Plan`.

    Args:
      topology: compiled for.
      num_devices: how many the program runs on.
      built: the compiled program.
      costs: of one step; None: it was refused.
      change: advice for when it does not fit.
    """
    fits = built.fits(topology)
    values: dict[str, Any] = {
        "topology": topology.name,
        "device_kind": topology.device_kind,
        "num_devices": num_devices,
        "hbm_bytes": topology.hbm_bytes,
        "argument_bytes": built.argument_bytes,
        "temp_bytes": built.temp_bytes,
        "total_bytes": built.total_bytes,
        "fits": fits,
        "compile_seconds": round(built.seconds, 1),
        "takes_space": built.takes_space(topology),
        "change": None if fits else change,
    }
    return values | _of_costs(costs, topology.chip)


def _of_costs(costs: Costs | None, figures: Chip) -> dict[str, Any]:
    if costs is None:
        names = ("flops", "hbm_traffic_bytes", "collective_bytes", "step_cycles_compiler")
        return dict.fromkeys((*names, "step_ms_roofline"))
    return {
        "flops": costs.flops,
        "hbm_traffic_bytes": costs.hbm_bytes,
        "collective_bytes": {kind: costs.collectives.get(kind, 0) for kind in COLLECTIVES},
        "step_cycles_compiler": costs.cycles,
        "step_ms_roofline": 1e3 * roofline_seconds(costs, figures),
    }
