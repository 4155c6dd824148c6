"""What a report has measured so far, in FILE.part until the report is written.

Its first line says what is measured, on what and by which code; each line after it is a model with
heads. A rerun of the same command takes these over and measures the others.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from medusa_jax.cli.console import note
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_text
from train.reporting.rows import Measurement
from train.reporting.sets import Sets

_HEADER = "unfinished report"


class Kept:
    """Measurements, found by the files that were measured.

    Attributes:
      part: FILE.part, which appears with the first one.
    """

    def __init__(self, part: Path, header: dict[str, Any]) -> None:
        """Reads what an interrupted report has kept.

        Raises:
          UserError: the file belongs to another report, or is not such a file.
        """
        self.part = part
        self._header = {_HEADER: header}
        self._known = _read(part, self._header)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, files: Any, measure: Callable[[], Measurement]) -> Measurement:
        """What is kept about some files; if nothing is, they are measured now.

        Args:
          files: from `medusa_jax.io.stamp.stamp`, or another JSON value.
          measure: measures them.

        Raises:
          UserError: what was measured could not be written.
        """
        key = json.dumps(files)
        if key not in self._known:
            self._known[key] = measure()
            rows = ({"files": json.loads(k)} | own._asdict() for k, own in self._known.items())
            lines = (json.dumps(value) + "\n" for value in (self._header, *rows))
            write_text(self.part, "".join(lines))
        return self._known[key]


@contextlib.contextmanager
def keep(target: Path, header: dict[str, Any]) -> Iterator[Kept]:
    """Opens FILE.part, which is removed after a `with` block that has ended well.

    Args:
      target: the report that is written in the block.
      header: JSON values that all measurements depend on.

    Raises:
      UserError: see `Kept`.
    """
    kept = Kept(check_output(target.with_name(f"{target.name}.part")), header)
    if kept:
        note(f"resuming: what {kept.part} has is not measured again")
    try:
        yield kept
    except BaseException:
        if kept:
            note(f"what has been measured is in {kept.part}: rerun the same command to resume")
        raise
    kept.part.unlink(missing_ok=True)


def digest_of(sets: Sets) -> str:
    """A digest of all tokens that are read and asked."""
    read = [
        [[own.token_T.tolist(), own.is_label_T.tolist()] for own in examples]
        for examples in (sets.conversations, sets.problems)
    ]
    asked = [own.ids for own in sets.questions]
    return hashlib.sha256(json.dumps([*read, asked]).encode()).hexdigest()


def _read(part: Path, wanted: dict[str, Any]) -> dict[str, Measurement]:
    otherwise = "name another --output, or delete it"
    if not part.exists():
        return {}
    try:
        header, *rows = map(json.loads, part.read_text(encoding="utf-8").splitlines())
        other = [key for key, value in wanted[_HEADER].items() if header[_HEADER][key] != value]
        known = {
            json.dumps(row["files"]): Measurement(row["prompts"], row["head_top1"]) for row in rows
        }
    except OSError as error:
        raise UserError(f"cannot read {part} ({error.strerror}): {otherwise}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{part} is not of an interrupted report: {otherwise}") from None
    if other:
        raise UserError(f"{part} is of a report with other {', '.join(other)}: {otherwise}")
    return known
