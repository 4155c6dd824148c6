"""Says in one line what is wrong with a configuration on the command line (ml_collections)."""

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from medusa_jax.errors import UserError

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_OVERRIDE = re.compile(r"--?(?:no)?(\w+)\.([\w.]+)(=.*)?", re.DOTALL)


def explain(argv: Sequence[str], error: Exception) -> str:
    """Why flags could not be parsed: ml_collections' own messages quote its source code.

    Args:
      argv: the command line.
      error: what parsing it raised.

    Returns:
      One line that names the key or the file, and how to mend it.
    """
    for name, file in _config_files(argv):
        if missing := _missing(name, file):
            return missing
        try:
            config = flags.FLAGS[name].parser.parse(file)
            types = dict(_types(config))
        except Exception as reason:  # whatever the user's file raises
            return f"cannot load --{name}={file}: {_last_line(reason)}"
        for key, value in _overrides(argv, name):
            if key not in types:
                return unknown(f"{name}.", key, list(types))
            is_value = isinstance(error, flags.IllegalFlagValueError)
            if is_value and f"--{name}.{key}=" in str(error) and types[key] in _TYPE_NAMES:
                return f"{name}.{key} is {value!r}: it must be {_TYPE_NAMES[types[key]]}"
    return str(error)


def loaded(config: Any) -> Any:
    """The configuration, if its file could be read: ml_collections reports it only on first use.

    Args:
      config: of a flag.

    Raises:
      UserError: it could not.
    """
    try:
        config.to_dict()
    except OSError as error:
        for name, file in _config_files(sys.argv):
            if missing := _missing(name, file):
                raise UserError(missing) from error
        reason = str(error).partition("Failed loading config file")[2] or str(error)
        raise UserError(f"cannot load --config: {reason}") from error
    return config


def unknown(prefix: str, key: str, known: Sequence[str]) -> str:
    """What to say about a key that does not exist: the closest one that does, or all.

    Args:
      prefix: "config." or the like, for the message.
      key: the misspelt one.
      known: the keys that exist.
    """
    close = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"choose from {', '.join(known)}"
    return f"{prefix}{key} is unknown: {hint}"


def _missing(name: str, file: str) -> str:
    """What to say of a configuration file that is not there; "" if it is."""
    path = Path(file.partition(":")[0])
    if path.exists():
        return ""
    return (
        f"cannot load --{name}={file}: there is no {path} here (recipes lie in the clone's "
        "configs/: run the command in the clone, or name the whole path)"
    )


def _config_files(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of every configuration flag."""
    for arg, following in zip(argv, (*argv[1:], ""), strict=True):
        name, equals, value = arg.lstrip("-").partition("=")
        is_flag = arg.startswith("-") and name in flags.FLAGS
        if is_flag and config_flags.is_config_flag(flags.FLAGS[name]):
            yield name, value if equals else following


def _overrides(argv: Sequence[str], name: str) -> Iterator[tuple[str, str]]:
    for arg, following in zip(argv, (*argv[1:], ""), strict=True):
        match = _OVERRIDE.fullmatch(arg)
        if match and match[1] == name:
            yield match[2], match[3][1:] if match[3] else following


def _types(config: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Dotted name and type of all values; raises OSError for a file that could not be read."""
    for key, value in config.items(preserve_field_references=True):
        yield prefix + key, config.get_type(key)
        if isinstance(value, ConfigDict):
            yield from _types(value, f"{prefix}{key}.")


def _last_line(error: Exception) -> str:
    """The last line of a message: some of ml_collections' hold a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("ValueError: ").removeprefix("TypeError: ")
