"""A file of replies that several processes write together, with its settings beside it.

Every process appends rows to a part of its own, OUTPUT.part-00001-of-00004. Whoever finds that all
conversations are there joins the parts: OUTPUT appears complete, in an order of its own, and the
parts are removed. So no process waits for another, and a run may go on with more or fewer.
"""

import glob
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json, write_text
from medusa_jax.io.json_file import read_json


def part_path(path: Path, index: int, count: int) -> Path:
    """Name of the part that one of several processes writes."""
    return path.with_name(f"{path.name}.part-{index:05d}-of-{count:05d}")


def read_rows(path: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The complete rows of a file and of all its parts, as lines by id; {} when there are none.

    Args:
      path: of the file.
      settings: JSON values that all its rows have to be made with.

    Raises:
      UserError: the rows were made with other settings or by something else, or cannot be read.
    """
    rows: dict[str, str] = {}
    # The parts first: they are removed once the file is there.
    for file in (*_parts(path), path):
        try:
            rows |= _rows_of(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot continue {file} ({str(error).splitlines()[0]}): name another --output"
            ) from error
    if rows:
        check_settings(path, settings)
    return rows


@contextmanager
def append_rows(
    path: Path, part: Path, settings: dict[str, Any]
) -> Iterator[Callable[[list[Any]], None]]:
    """Opens a part of a file that `read_rows` accepts, with a function that adds rows at once.

    A half-written last line, which a kill may have left, is cut off.

    Raises:
      UserError: it cannot be written.
    """
    beside = _settings_path(path)
    if not any(_has_rows(file) for file in (*_parts(path), path)):
        write_json(beside, settings)
    try:
        with part.open("a+b") as file:
            file.truncate(_end_of_lines(file))

            def add(rows: list[Any]) -> None:
                # ASCII: U+2028 and its like would end the line for some readers.
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))
                file.flush()

            yield add
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}") from error


def join(
    path: Path, settings: dict[str, Any], order: Iterable[str], wanted: Collection[str]
) -> int:
    """Makes the file from its parts if all rows are there.

    Two processes may do so at once: they write the same.

    Args:
      path: of the file.
      settings: see `read_rows`.
      order: ids of all rows that there can be.
      wanted: ids of those that have to be there.

    Returns:
      How many are missing; if any, nothing has changed.

    Raises:
      UserError: see `read_rows`; or the file cannot be written.
    """
    rows, parts = read_rows(path, settings), _parts(path)
    missing = sum(name not in rows for name in wanted)
    if missing or not parts:
        return missing
    write_text(path, "".join(rows[name] for name in order if name in rows))
    for part in parts:
        part.unlink(missing_ok=True)
    return 0


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.part-*"))


def _rows_of(file: Path) -> dict[str, str]:
    with file.open(encoding="ascii", newline="\n") as lines:
        return {json.loads(line)["id"]: line for line in lines if line.endswith("\n")}


def _settings_path(path: Path) -> Path:
    return path.with_name(path.name + ".meta.json")


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuses to go on with rows that were made with other settings; arguments as of `read_rows`.

    Raises:
      UserError: they were, or nothing says with which.
    """
    beside = _settings_path(path)
    if not beside.exists():
        raise UserError(
            f"{path} exists, but not the {beside.name} of a run to continue: name another --output"
        )
    made = read_json(beside, "remove it and the rows beside it, or name another --output")
    for key, value in settings.items():
        if made.get(key) != value:
            raise UserError(
                f"{path} was made with {key} {json.dumps(made.get(key))}, now it is "
                f"{json.dumps(value)}: run with the same settings, or name another --output"
            )


def _has_rows(path: Path) -> bool:
    """Whether there is a whole line; half a line that a kill left does not count."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return _end_of_lines(file) > 0


def _end_of_lines(file: Any) -> int:
    end = file.seek(0)
    for line in file:
        end += len(line) if line.endswith(b"\n") else 0
    return end
