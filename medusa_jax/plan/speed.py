"""Times and rates that follow from what a step costs; all of them are estimates."""

from medusa_jax.plan.chips import Chip
from medusa_jax.plan.costs import Costs


def roofline_seconds(costs: Costs, figures: Chip) -> float:
    """The longest of operations, memory traffic and wire, each at the device's peak."""
    assert figures.hbm is not None
    wire = costs.wire_bytes / figures.wire if figures.wire else 0.0
    products = (costs.flops - costs.exact_flops) / figures.flops
    products += costs.exact_flops / figures.exact_flops
    return max(products, costs.hbm_bytes / figures.hbm, wire)


def step_seconds(costs: Costs, figures: Chip) -> float:
    """An estimate: the longer of the roofline and the compiler's cycles.

    Each leaves out what the other sees: the cycles leave out waiting for memory, the roofline
    everything that is no product and whatever keeps a core from its peak.
    """
    cycles = 0.0
    if costs.cycles is not None and figures.clock is not None:
        cycles = costs.cycles / figures.clock
    return max(cycles, roofline_seconds(costs, figures))


def decoding_speed(
    step: Costs, plain: Costs | None, figures: Chip, tokens: float | None
) -> dict[str, float | None]:
    """The attributes that `DecodePlan` adds.

    Args:
      step: costs of a step, per device.
      plain: costs of a plain step; None: not known.
      figures: of a device.
      tokens: how many a step gives to all rows together; None: not known.
    """
    seconds = step_seconds(step, figures)
    return {
        "overhead": None if plain is None else seconds / step_seconds(plain, figures),
        "tokens_per_second": None if tokens is None else tokens / seconds,
    }


def training_speed(costs: Costs, figures: Chip, tokens: float, flops: float) -> dict[str, float]:
    """The attributes that `TrainPlan` adds.

    Args:
      costs: of a step, per device.
      figures: of a device.
      tokens: of a step, per device.
      flops: the model's operations per token.
    """
    at_best = figures.flops * roofline_seconds(costs, figures)
    return {
        "tokens_per_second_per_device": tokens / step_seconds(costs, figures),
        "mfu_bound": tokens * flops / at_best,
    }
