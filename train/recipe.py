"""The settings that a command line asks for: a recipe, and what its flags change."""

from typing import Any

from absl import flags
from ml_collections import config_flags

from medusa_jax.cli.config import loaded
from train.settings import Settings, make_settings


def settings_of(config: flags.FlagHolder[Any]) -> Settings:
    """Reads a recipe's flag.

    A length on the command line, in steps or in epochs, replaces the recipe's other one.

    Raises:
      UserError: the file cannot be read, or see `make_settings`.
    """
    values = loaded(config.value)
    lengths = {"steps", "epochs"} & set(values)
    given = lengths & config_flags.get_override_values(flags.FLAGS[config.name]).keys()
    if len(given) == 1:
        values.update(dict.fromkeys(lengths - given))
    return make_settings(values)
