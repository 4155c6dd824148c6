"""Trains Medusa heads.

Example:
  python -m train.main --config=configs/smollm2_medusa1.py --workdir=runs/smollm2
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

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
    try:
        config = ConfigDict(_CONFIG.value.to_dict())
    except OSError as error:  # a file that does not load is reported at its first use
        reason = str(error).partition("Failed loading config file")[2] or str(error)
        raise UserError(f"cannot load --config: {reason}") from error
    setup_compilation_cache()
    medusa1.train(config, Path(_WORKDIR.value))


def run() -> None:
    """Entry point of `medusa-train`."""
    run_main(main)


if __name__ == "__main__":
    run()
