"""Trains Medusa heads.

Example:
  python -m train.main --config=configs/smollm2_medusa1.py --workdir=runs/smollm2
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from medusa_jax.cli import run_main, setup_compilation_cache
from medusa_jax.errors import UserError
from train import medusa1

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration; see configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, log and export.")


def main(argv: list[str]) -> None:
    """Runs the configured training."""
    del argv
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise UserError("--config and --workdir are both needed: see --help")
    setup_compilation_cache()
    medusa1.train(_CONFIG.value, Path(_WORKDIR.value))


def run() -> None:
    """Entry point of `medusa-train`."""
    run_main(main)


if __name__ == "__main__":
    run()
