"""Runs commands in this process, by default `python -m infer.generate`."""

from collections.abc import Callable, Sequence

from infer import generate
from tests import commands


def run_one(argv: Sequence[str], command: Callable[[], object] = generate.run) -> dict:
    """What a command would exit with and print."""
    return commands.run_one(argv, command)
