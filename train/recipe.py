"""A recipe and what flags change of it, as `Settings`: or one line that says what is wrong."""

import types
import typing
from typing import Any, Literal

from absl import flags
from ml_collections import config_flags

from medusa_jax.cli.config import loaded, unknown
from medusa_jax.errors import UserError
from train.settings import MeshSettings, Settings
from train.settings_checks import check_settings, check_tree

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "True or False"}


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


def make_settings(config: Any, *, is_done: bool = False) -> Settings:
    """Checks a configuration before anything expensive starts.

    Args:
      config: a ConfigDict with the keys of `configs/base.py`, no fewer and no others.
      is_done: of a run that has been made: the file of its tree may be gone.

    Returns:
      The settings; whole numbers where the configuration may have fractions become floats.

    Raises:
      UserError: a key is unknown, missing, of the wrong type or out of range, or keys contradict
        each other; the message names it as "config.KEY" and says how to mend it.
    """
    values: dict[str, Any] = config.to_dict()
    mesh = values.get("mesh")
    if isinstance(mesh, dict):
        values["mesh"] = MeshSettings(**_typed(MeshSettings, mesh, "config.mesh."))
    settings = Settings(**_typed(Settings, values, "config."))
    check_settings(settings)
    if not is_done:
        check_tree(settings)
    return settings


def _typed(kind: Any, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise UserError(unknown(prefix, key, list(hints)))
    for key in hints:
        if key not in values:
            raise UserError(
                f"{prefix}{key} is missing: let the recipe start from configs.base.get_config()"
            )
    return {key: _value(prefix + key, value, hints[key]) for key, value in values.items()}


def _value(name: str, value: Any, hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(typing.get_args(hint))
            raise UserError(f"{name} is {value!r}: choose one of {choices}")
        return value
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:  # exactly: True would pass for a whole number
        wanted = _NAMES.get(kinds[0], "a ConfigDict with data, fsdp and tensor")
        raise UserError(f"{name} is {value!r}: it must be {wanted}")
    return value
