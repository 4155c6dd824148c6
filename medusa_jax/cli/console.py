"""Consoles of the command lines: colours only in a terminal, notes and warnings on stderr."""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 120


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


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], name: str | None = None
) -> None:
    """Prints a table on stdout.

    Args:
      title: above it.
      columns: their heads.
      rows: texts of their cells, numbers but for one column.
      name: the head of that column, whose texts are not wrapped; None: there is none.
    """
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    for column in columns:
        is_name = column == name
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    console = make_console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


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
