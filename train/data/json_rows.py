"""Rows of a JSON array or of JSON lines, read as a stream; plain, .gz or .xz."""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from medusa_jax.errors import UserError

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_STRING = r'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+'
_NUMBER = r"-?\d++(?:\.\d++)?(?:[eE][+-]?\d++)?"
_TOKEN = rf'[\[\]{{}},:]|{"|".join(_LITERALS)}|{_NUMBER}|{_STRING}"'
_TOKENS = re.compile(rf"(?:[ \t\r\n]*+(?:{_TOKEN}))*+")
# What may be left of a string or of a number where a text is cut off.
_NUMBER_TAIL = re.compile(r"\.|[eE][+-]?|")
_UNFINISHED = re.compile(rf"{_STRING}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?|{_NUMBER_TAIL.pattern}")


@dataclass(frozen=True)
class JsonRow:
    """One row, or the reason why there is none.

    Attributes:
      line: where it begins, from 1.
      value: what the row holds; None if it is not JSON.
      problem: why it is not JSON; "" for a good row.
      is_cut: the array ends inside this row, as in an interrupted download.
    """

    line: int
    value: Any
    problem: str = ""
    is_cut: bool = False


def read_json_rows(path: Path) -> Iterator[JsonRow]:
    """Rows of a file; its first character tells an array from JSON lines.

    Memory is bounded by the longest row. An array that is broken in the middle ends there, with a
    row that says so.

    Raises:
      UserError: the file cannot be read or unpacked.
    """
    try:
        with _open(path) as file:
            first = _skip_space(file)
            if first is None:
                return
            line, character = first
            if character == "[":
                yield from _ArrayReader(file, line).rows()
            else:
                yield from _lines(file, line, character)
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot read {path}: {reason}") from error


def _open(path: Path) -> TextIO:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    # A bad byte becomes half a surrogate pair: a fault of its row, not of the file.
    return opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape")  # type: ignore[return-value]


def _skip_space(file: TextIO) -> tuple[int, str] | None:
    """Line and value of the first visible character; None in an empty file."""
    line = 1
    while character := file.read(1):
        if character not in _SPACE:
            return line, character
        line += character == "\n"
    return None


def _lines(file: TextIO, line: int, start: str) -> Iterator[JsonRow]:
    for number, text in enumerate(file, line):
        text, start = start + text, ""
        if not text.strip():
            continue
        try:
            yield JsonRow(number, json.loads(text))
        except (ValueError, RecursionError) as error:
            yield JsonRow(number, None, f"not valid JSON ({_reason(error)})")
    if start:  # the file is that one character
        yield JsonRow(line, None, "not valid JSON")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return getattr(error, "msg", "a number has too many digits")


class _ArrayReader:
    """Decodes the elements of an array one by one; `file` stands just after its "["."""

    def __init__(self, file: TextIO, line: int):
        self._file = file
        self._line = line
        self._text = ""
        self._position = 0
        self._decoder = json.JSONDecoder()

    def rows(self) -> Iterator[JsonRow]:
        is_first = True
        while (character := self._next()) != "]":
            if not is_first and character == ",":
                self._position += 1
                if (character := self._next()) == "]":
                    return
            elif not is_first and character:
                yield self._broken('a "," is missing')
                return
            row = self._decode() if character else None
            yield row or JsonRow(self._line, None, "the array is cut off here", is_cut=True)
            if row is None or row.problem:
                return
            is_first = False

    def _broken(self, reason: str) -> JsonRow:
        problem = f"not valid JSON ({reason}), so the rows from here on cannot be told apart"
        return JsonRow(self._line, None, problem)

    def _next(self) -> str:
        """The next visible character, which is not consumed; "" at the end of the file."""
        while True:
            while self._position < len(self._text):
                character = self._text[self._position]
                if character not in _SPACE:
                    return character
                self._line += character == "\n"
                self._position += 1
            if not self._read(_CHUNK):
                return ""

    def _read(self, size: int) -> bool:
        """Drops what is done and adds `size` characters; False at the end of the file."""
        more = self._file.read(size)
        self._text = self._text[self._position :] + more
        self._position = 0
        return bool(more)

    def _decode(self) -> JsonRow | None:
        """The element that begins here; None when the file ends inside of it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                if not self._may_be_cut(error):
                    return self._broken(_reason(error))
                # Doubled each time, so that a long row is not decoded over and over.
                if not self._read(max(_CHUNK, len(self._text) - self._position)):
                    return None
                continue
            may_be_longer = isinstance(value, int | float) and _NUMBER_TAIL.fullmatch(
                self._text, end
            )
            if may_be_longer and self._read(_CHUNK):
                continue
            row = JsonRow(self._line, value)
            self._line += self._text.count("\n", self._position, end)
            self._position = end
            return row

    def _may_be_cut(self, error: Exception) -> bool:
        """Whether more text could mend the error: no whole token is wrong, the last is unfinished.

        For '{"a": [1, "b' the whole tokens end before '"b', where the error is; for '{"a" 1, "b'
        the error comes earlier.
        """
        if not isinstance(error, json.JSONDecodeError):
            return False
        whole = _TOKENS.match(self._text, self._position)
        end = whole.end() if whole else self._position
        tail = self._text[end:].lstrip(_SPACE)
        is_literal = any(literal.startswith(tail) for literal in _LITERALS)
        return error.pos >= end and (is_literal or _UNFINISHED.fullmatch(tail) is not None)
