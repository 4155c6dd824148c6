"""Trains Medusa heads, alone or together with the backbone.

Examples:
  python -m train.main --config=configs/tiny.py --workdir=runs/tiny
  python -m train.main --config=configs/vicuna_7b_medusa2.py:stage1 --config.batch_size=32 \\
    --workdir=runs/stage1

configs/base.py lists every key that --config.KEY=VALUE can change; the other files there are
recipes. Rerun the same command to resume a run from the last checkpoint in its --workdir.
"""

from absl import flags
from ml_collections import config_flags

from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.errors import UserError
from train import distributed
from train.recipe import settings_of

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to train with; see configs/.")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, log and export, shared by all hosts, or gs://BUCKET/PATH.",
)
flags.adopt_module_key_flags(distributed)


def main(argv: list[str]) -> None:
    """Runs the configured training."""
    del argv
    if _CONFIG.value is None or not _WORKDIR.value:
        raise UserError("--config and --workdir are both needed: see --help")
    settings = settings_of(_CONFIG)
    distributed.initialize_from_flags()
    setup_compilation_cache()
    from train.run import train  # after the settings are known to be good: it takes seconds

    train(settings, _WORKDIR.value)


def run() -> None:
    """Entry point of `medusa-train`."""
    run_main(main)


if __name__ == "__main__":
    run()
