"""Consoles of the command lines: colours only in a terminal, notes and warnings on stderr."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # what the pipe raised; rich would end the process with an exit code of its own


def make_console(*, stderr: bool = False, quiet: bool = False, width: int | None = None) -> Console:
    """A console that colours only in a terminal, and never under NO_COLOR.

    Args:
      stderr: prints there, not on stdout.
      quiet: prints nothing.
      width: in columns; None: that of the terminal.
    """
    plain = bool(os.environ.get("NO_COLOR"))
    return _Console(
        stderr=stderr,
        quiet=quiet,
        width=width,
        color_system=None if plain else "auto",
        highlight=False,
    )


def waiting(message: str) -> AbstractContextManager[Any]:
    """A sign of life on stderr, in a terminal only, gone before the first text."""
    console = make_console(stderr=True)
    return console.status(message) if console.is_terminal else nullcontext()


def note(message: str) -> None:
    """One dim line on stderr, if anybody reads it."""
    try:
        make_console(stderr=True).print(Text(message, "dim"), soft_wrap=True)
    except BrokenPipeError:
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Lets a stream lead nowhere, so that Python does not complain at exit of what it holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_warning(message: Warning | str, *where: Any) -> None:
    """Replaces `warnings.showwarning`: a note, not the source line that gave the warning."""
    del where
    note(" ".join(str(message).split()))
