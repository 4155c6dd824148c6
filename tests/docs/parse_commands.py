"""Parses command lines with the flags of their modules, and runs none of them.

JSON in: a list of [module, argument, ...]. JSON out: for each, what is wrong with it, or null. Each
is parsed in a process of its own, since the modules define flags of the same names.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

import medusa_jax  # noqa: F401  what all the commands import: once, before the processes part
from medusa_jax.errors import UserError


def in_a_child(work: Callable[[], Any]) -> Any:
    """The result, as JSON, of what is called in a child process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        with os.fdopen(writer, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.wait()
    return json.loads(said)


def parse(module: str, *arguments: str) -> None:
    """Raises what the command would raise before it starts to work."""
    sys.argv = [module, *arguments]  # where ml_collections looks for --config.KEY
    importlib.import_module(module)
    rest = flags.FLAGS(sys.argv)[1:]
    if rest:
        raise UserError(f"unexpected argument {rest[0]!r}")
    if "config" in flags.FLAGS:
        from train.recipe import make_settings

        make_settings(flags.FLAGS["config"].value)


def complaint(command: list[str]) -> str | None:
    """What is wrong with a command."""
    try:
        parse(*command)
    except BaseException as reason:
        return f"{type(reason).__name__}: {reason}"
    return None


def complaints(module: str, commands: list[list[str]]) -> list[str | None]:
    """What is wrong with commands of one module, which is imported once for all."""
    if importlib.util.find_spec(module) is not None:
        importlib.import_module(module)
    return [in_a_child(lambda command=command: complaint(command)) for command in commands]


def main(commands: list[list[str]]) -> list[str | None]:
    """What is wrong with each."""
    answers: dict[str, Any] = {}
    for module in {command[0] for command in commands}:
        own = [command for command in commands if command[0] == module]
        answers[module] = iter(in_a_child(lambda module=module, own=own: complaints(module, own)))
    return [next(answers[command[0]]) for command in commands]


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
