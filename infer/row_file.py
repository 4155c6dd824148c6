"""`--output`: rows are kept in FILE.part as they are done, and become FILE at the end.

FILE.part begins with a line that identifies the call: its options, and digests of its prompts and
of local model files. Each line after it is a row with its index in FILE, in the order in which they
were done. A rerun of the same call takes these rows over and makes the others.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medusa_jax.cli.console import note
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_text
from medusa_jax.io.stamp import stamp
from medusa_jax.paths import user_path

_HEADER = "unfinished call"
_ELSE = "name another --output, or start anew with --overwrite"
# What a model, its heads, tokenizer and chat template are read from.
_READ = (".safetensors", ".gguf", ".bin", ".pt", ".json", ".jinja", ".model")

Row = dict[str, Any]


class Rows:
    """Rows in memory alone, for a call without `--output`.

    Attributes:
      rows: JSON objects by their index, counted from 0, in the order in which they were done.
    """

    def __init__(self, rows: Mapping[int, Row] | None = None) -> None:
        self.rows = dict(rows or {})

    def add(self, rows: Mapping[int, Row]) -> None:
        """Adds rows that are done."""
        self.rows |= rows

    def made_in(self, dtype: str) -> None:
        """Says what the model computes in, which is not known before it is loaded."""

    def in_order(self) -> list[Row]:
        """All rows in the order of their indices."""
        return [self.rows[index] for index in sorted(self.rows)]


class RowFile(Rows):
    """Rows that are also kept in FILE.part, which appears with the first new ones.

    Attributes:
      part: FILE.part.
    """

    def __init__(
        self, part: Path, call: Row, rows: Mapping[int, Row], dtype: str | None = None
    ) -> None:
        super().__init__(rows)
        self.part = part
        self._call, self._dtype = call, dtype
        self._begun = False

    def made_in(self, dtype: str) -> None:
        """See `Rows.made_in`.

        Raises:
          UserError: the rows that are there were made in another.
        """
        if self._dtype not in (None, dtype):
            raise UserError(
                f"{self.part} has answers made in {self._dtype}, not in {dtype}: add --dtype "
                f"{self._dtype}, or start anew with --overwrite"
            )
        self._dtype = dtype

    def add(self, rows: Mapping[int, Row]) -> None:
        """Adds rows that are done, and keeps them.

        Raises:
          UserError: writing failed, for example because the disk is full.
        """
        if self._begun:
            self._append(_lines(_indexed(rows)))
        else:  # at once, without what an interruption may have left at the end
            header = {_HEADER: self._call, "made_in": self._dtype}
            write_text(self.part, _lines([header, *_indexed(self.rows), *_indexed(rows)]))
            self._begun = True
        super().add(rows)

    def _append(self, text: str) -> None:
        try:
            with self.part.open("a", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {self.part} ({error.strerror}): make room") from None


@contextlib.contextmanager
def open_rows(
    path: str | None, call: Row, prompts: Sequence[Any], *, overwrite: bool
) -> Iterator[Rows]:
    """Opens `--output`, which is complete, or left as it was, at the end of the `with` block.

    Args:
      path: of the file; None: rows are kept in memory alone.
      call: JSON values that identify the call.
      prompts: JSON values, what each row answers; they are part of the call's identity.
      overwrite: start anew, whatever FILE.part holds.

    Yields:
      The rows, with all that an interrupted run of the same call has kept.

    Raises:
      UserError: the file cannot be written, or FILE.part belongs to another call.
    """
    if path is None:
        yield Rows()
        return
    target = check_output(path)
    part = check_output(target.with_name(f"{target.name}.part"))
    call = {**call, "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest()}
    call = json.loads(json.dumps(call))  # as it will be read
    kept, dtype = ({}, None) if overwrite else _read(part, call, prompts)
    rows = RowFile(part, call, kept, dtype)
    if kept:
        note(f"resuming: {len(kept)} of {len(prompts)} answers are in {part}")
    try:
        yield rows
    except BaseException:
        if rows.rows:
            done = f"{len(rows.rows)} of {len(prompts)} answers are kept in {part}"
            anew = ", without --overwrite," if overwrite else ""
            note(f"{done}: rerun the same command{anew} to resume")
        raise
    write_text(target, _lines(rows.in_order()))
    part.unlink(missing_ok=True)
    note(f"wrote {target}")


def identify(name: str | None) -> Any:
    """What a flag names; for local files, also what changes with their content.

    Args:
      name: a hub id, a file, the folder of a model or of heads, or anything else.

    Returns:
      A JSON value.
    """
    path = user_path(name or "")
    try:
        if name is None or not path.exists():
            return name
        return stamp(path, _READ)
    except OSError:  # loading will say what is wrong
        return name


def _lines(rows: Iterable[Row]) -> str:
    # json.dumps escapes to ASCII: U+2028 and its like would end the line for some readers.
    return "".join(json.dumps(row) + "\n" for row in rows)


def _indexed(rows: Mapping[int, Row]) -> Iterator[Row]:
    return ({"index": index} | row for index, row in rows.items())


def _read(part: Path, call: Row, prompts: Sequence[Any]) -> tuple[dict[int, Row], str | None]:
    """What an interrupted run has kept: rows, without a half-written last line, and the dtype."""
    try:
        lines = part.read_bytes().split(b"\n")[:-1] if part.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {part} ({error.strerror}): {_ELSE}") from None
    if not part.exists() or part.stat().st_size == 0:
        return {}, None
    try:
        header, *rows = map(json.loads, lines)
        other = [key for key in call if header[_HEADER].get(key) != call[key]]
        asked = [(row.pop("index"), row["prompt"]) for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{part} holds no rows of an interrupted command: {_ELSE}") from None
    if other:
        raise UserError(f"{part} is of a call with other {', '.join(other)}: {_ELSE}")
    if not all(_is_asked(index, prompt, prompts) for index, prompt in asked):
        raise UserError(f"{part} is damaged, its rows do not fit the prompts: {_ELSE}")
    kept = {index: row for (index, _), row in zip(asked, rows, strict=True)}
    if len(kept) < len(rows):
        raise UserError(f"{part} is damaged, it answers a prompt twice: {_ELSE}")
    return kept, header.get("made_in")


def _is_asked(index: Any, prompt: Any, prompts: Sequence[Any]) -> bool:
    return isinstance(index, int) and 0 <= index < len(prompts) and prompts[index] == prompt
