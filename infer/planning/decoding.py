"""Plans decoding: compiles the step of a tree and the plain one, and compares them."""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from infer.planning.abstract import Wish, decode_program
from medusa_jax.io.atomic import write_text
from medusa_jax.plan.build import Built, build
from medusa_jax.plan.costs import Costs, step_costs
from medusa_jax.plan.estimate import DecodePlan, common
from medusa_jax.plan.parse import parse
from medusa_jax.plan.speed import decoding_speed
from medusa_jax.plan.topology import Topology
from medusa_jax.tree.build import build_tree

CHANGE = (
    "to make it fit: more devices (--mesh tensor=N), --quantize int8, a smaller --batch_size or "
    "--max_context, or a topology with more memory"
)


def plan_decoding(
    topology: Topology,
    where: Mesh | Any,
    wish: Wish,
    tokens_per_step: float | None = None,
    hlo: Path | None = None,
) -> DecodePlan:
    """What decoding takes.

    Args:
      topology: to compile for.
      where: a mesh of its devices, or one of them.
      wish: what is to be decoded.
      tokens_per_step: what the tree is expected to give per row; None: no speed is estimated.
      hlo: a folder for the optimized programs; None: they are not kept.
    """
    built, costs = _step(topology, where, wish, hlo, "step")
    num_devices = where.size if isinstance(where, Mesh) else 1
    speed: dict[str, Any] = dict.fromkeys(("overhead", "tokens_per_second"))
    if costs is not None:
        plain = costs
        if wish.tree.R > 1:
            root_alone = dataclasses.replace(wish, tree=build_tree([]))
            _, plain = _step(topology, where, root_alone, hlo, "plain")
        tokens = None if tokens_per_step is None else wish.batch_size * tokens_per_step
        speed = decoding_speed(costs, plain, topology.chip, tokens)
    return DecodePlan(**common(topology, num_devices, built, costs, CHANGE), **speed)


def _step(
    topology: Topology, where: Any, wish: Wish, hlo: Path | None, name: str
) -> tuple[Built, Costs | None]:
    program = decode_program(wish, where)
    built = build(topology, program.compiled, program.parts())
    if built.text is None:
        return built, None
    if hlo is not None:
        write_text(hlo / f"{name}.txt", built.text)
    return built, step_costs(parse(built.text))
