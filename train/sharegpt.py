"""Reads and writes conversations in ShareGPT's form: JSON or JSON lines, plain, .gz or .xz."""

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from medusa_jax.errors import UserError

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "system": "system",
}


def _open(path: Path) -> TextIO:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")  # type: ignore[return-value]


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON array or of JSON lines.

    Raises:
      UserError: the file cannot be read, or a row is not a JSON object (names file and line).
    """
    path = Path(path)
    plain_name = path.stem if path.suffix in (".gz", ".xz") else path.name
    try:
        with _open(path) as file:
            if plain_name.endswith(".json"):
                yield from _array(json.load(file), path)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parse(line, path, number)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, json.JSONDecodeError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _array(rows: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a JSON array of objects")
    return rows


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: not valid JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: expected an object, found {type(row).__name__}")
    return row


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation of a row as chat messages; empty when it has none that can be used."""
    out = []
    for turn in row.get("conversations") or []:
        role = _ROLES.get(turn.get("from", "")) if isinstance(turn, dict) else None
        if role is None or not isinstance(turn.get("value"), str):
            return []
        out.append({"role": role, "content": turn["value"]})
    return out
