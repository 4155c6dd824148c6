"""A file of replies that grows row by row, with the settings it was made with beside it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json


def shard_path(path: str | Path, index: int, count: int) -> Path:
    """Name of one share's file: replies.jsonl becomes replies-00000-of-00004.jsonl."""
    path = Path(path)
    if count == 1:
        return path
    return path.with_name(f"{path.stem}-{index:05d}-of-{count:05d}{path.suffix}")


def read_done(path: Path, settings: dict[str, Any]) -> set[str]:
    """Ids of the rows that a file already has; empty when there is no file.

    Args:
      path: of the file.
      settings: JSON values that all its rows have to be made with.

    Raises:
      UserError: it was made with others or by something else, or cannot be read.
    """
    try:
        if not path.exists() or path.stat().st_size == 0:
            return set()
        _check_settings(path, settings)
        with path.open("rb") as file:
            lines = (line for line in file if line.endswith(b"\n"))
            return {json.loads(line)["id"] for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot continue {path} ({str(error).splitlines()[0]}): name another --output"
        ) from error


@contextmanager
def append_rows(path: Path, settings: dict[str, Any]) -> Iterator[Callable[[list[Any]], None]]:
    """Opens a file that `read_done` accepts, with a function that adds rows at once.

    A half-written last line, which a kill may have left, is cut off.

    Raises:
      UserError: it cannot be written.
    """
    if not path.exists() or path.stat().st_size == 0:
        write_json(_settings_path(path), settings)
    try:
        with path.open("a+b") as file:
            file.truncate(_end_of_lines(file))

            def add(rows: list[Any]) -> None:
                # ASCII: U+2028 and its like would end the line for some readers.
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))
                file.flush()

            yield add
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _settings_path(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    beside = _settings_path(path)
    if not beside.exists():
        raise UserError(
            f"{path} exists, but not the {beside.name} of a run to continue: name another --output"
        )
    made = json.loads(beside.read_text(encoding="utf-8"))
    for key, value in settings.items():
        if made.get(key) != value:
            raise UserError(
                f"{path} was made with {key} {json.dumps(made.get(key))}, now it is "
                f"{json.dumps(value)}: run with the same settings, or name another --output"
            )


def _end_of_lines(file: Any) -> int:
    end = file.seek(0)
    for line in file:
        end += len(line) if line.endswith(b"\n") else 0
    return end
