"""What a person types or a pipe holds: a message per line, or several with backslashes between."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from medusa_jax.io.cache import cache_dir

_HISTORY = "chat_history"
_HISTORY_LINES = 1000


def read_messages() -> Iterator[str]:
    """Yields messages from stdin until it ends; in a terminal with a prompt, editing and history.

    Ctrl-C gives up what has been typed.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is not text is found when it is checked
        sys.stdin.reconfigure(errors="surrogateescape")
    with _history() if sys.stdin.isatty() else contextlib.nullcontext():
        while (message := _read()) is not None:
            yield message


def _read() -> str | None:
    lines: list[str] = []
    while not lines or lines[-1].endswith("\\"):
        try:
            line = _line("... " if lines else "> ")
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print("^C", file=sys.stderr)
            lines = []
            continue
        if line is None:
            break
        lines.append(line)
    return "\n".join(line.removesuffix("\\") for line in lines) if lines else None


def _line(prompt: str) -> str | None:
    """One line, without its end; None when there is no more."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.removesuffix("\n").removeprefix("\ufeff") if line else None
    if not sys.stdout.isatty():  # stdout is for answers
        print(prompt, end="", file=sys.stderr, flush=True)
        prompt = ""
    try:
        return input(prompt)
    except EOFError:
        print(file=sys.stderr)
        return None


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Lets `input` edit lines and find those of earlier conversations, where it can."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = Path(cache_dir()) / _HISTORY
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError):
            readline.write_history_file(file)
