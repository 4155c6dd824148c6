"""What training would take on TPUs or GPUs that are not here: whether it fits, how fast at best.

The step is compiled for the named devices by their own compiler, with a model that is never loaded
and without data. Memory and collectives are facts of the compiled program; times are estimates
(docs/plan.md). A model of 7B takes minutes to compile.

Examples:
  The paper's MEDUSA-1 of Vicuna-7B on eight chips of a TPU v5e:
    python -m train.plan --config=configs/vicuna_7b_medusa1.py --topology v5e:2x4

  MEDUSA-2 in full precision, with the batch in eight parts, to a file:
    python -m train.plan --config=configs/vicuna_7b_medusa2.py:stage2 --topology v5p:2x2x1 \\
      --config.quantize=none --config.accumulate=8 --output plan.json

TPUs need the extra "plan" (libtpu), GPUs the extra "cuda".
"""

import dataclasses

from absl import flags
from ml_collections import config_flags

from medusa_jax.cli.console import waiting
from medusa_jax.cli.run import run_main
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, make_folder, write_json
from medusa_jax.mesh import make_mesh
from medusa_jax.plan.models import config_of
from medusa_jax.plan.table import show
from medusa_jax.plan.topology import find_topology
from train.random_model import RANDOM_TINY, base_config
from train.recipe import settings_of

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to plan; see configs/.")
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "Devices: a TPU and its slice (v5e:2x4, v5p:2x2x1, v6e:2x2), or a GPU and how many (h100:8).",
)
_HLO = flags.DEFINE_string(
    "hlo", None, "Folder for the optimized program as text; created if missing."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def main(argv: list[str]) -> None:
    """Compiles, prints a table and writes what was asked for."""
    del argv
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise UserError("--config and --topology are both needed: see --help")
    settings = settings_of(_CONFIG)
    target = None if _OUTPUT.value is None else check_output(_OUTPUT.value)
    topology = find_topology(_TOPOLOGY.value)
    is_made_up = settings.model == RANDOM_TINY
    config = base_config(RANDOM_TINY) if is_made_up else config_of(settings.model)
    mesh = make_mesh(**dataclasses.asdict(settings.mesh), devices=topology.devices)
    hlo = None if _HLO.value is None else make_folder(_HLO.value)
    from train.planning.training import plan_training  # after the settings are known to be good

    with waiting(f"compiling for {topology.name}: minutes for a model of 7B"):
        plan = plan_training(topology, settings, config, mesh, hlo)
    if target is not None:
        write_json(target, environment("train.plan") | plan.to_json())
    show(plan, f"{settings.model or 'SmolLM2-135M-Instruct'}, {settings.objective}")


def run() -> None:
    """Entry point of `medusa-plan-training`."""
    run_main(main)


if __name__ == "__main__":
    run()
