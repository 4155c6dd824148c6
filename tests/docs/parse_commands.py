"""Parses command lines with the flags of their modules, and runs none of them.

JSON in: a list of [module, argument, ...]. JSON out: for each, what is wrong with it, or null. Each
is parsed in a process of its own, since the modules define flags of the same names.
"""

import importlib
import json
import os
import sys

from absl import flags

import medusa_jax  # noqa: F401  what all the commands import: once, before the processes part
from medusa_jax.errors import UserError


def parse(module: str, *arguments: str) -> None:
    """Raises what the command would raise before it starts to work."""
    sys.argv = [module, *arguments]  # where ml_collections looks for --config.KEY
    importlib.import_module(module)
    rest = flags.FLAGS(sys.argv)[1:]
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    if "config" in flags.FLAGS:
        from train.settings import make_settings

        make_settings(flags.FLAGS["config"].value)


def answer(command: list[str]) -> str | None:
    """What is wrong with a command, found out by a child process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        error = None
        try:
            parse(*command)
        except BaseException as reason:
            error = f"{type(reason).__name__}: {reason}"
        os.write(writer, json.dumps(error).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    os.wait()
    return json.loads(said)


if __name__ == "__main__":
    print(json.dumps([answer(command) for command in json.load(sys.stdin)]))
