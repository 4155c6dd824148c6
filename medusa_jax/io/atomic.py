"""Output files that appear complete or not at all."""

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError
from medusa_jax.paths import user_path


def check_output(path: str | Path) -> Path:
    """Finds out whether a file can be written, before anything expensive starts.

    Args:
      path: of the file; a link is followed, so that it is not replaced.

    Returns:
      The path to give to `write_text` or `write_json`.

    Raises:
      UserError: the folder is missing or cannot be written, or the path is no regular file.
    """
    target = user_path(path)
    try:
        target = target.resolve()
        if target.exists() and not target.is_file():
            raise UserError(f"cannot write {path}: it is not a regular file, name another one")
        if target.exists() and not os.access(target, os.W_OK):
            raise UserError(f"cannot write {path}: it is read-only, name another file")
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a byte of 0
        raise _cannot_write(path, error) from None


def make_folder(path: str | Path) -> Path:
    """A folder for output files, made if it is not there.

    Raises:
      UserError: it cannot be made or written.
    """
    folder = user_path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise _cannot_write(folder, error) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file, which replaces `path` at the end of the `with` block.

    Yields:
      Where to write it; on an error it is removed, and the old file stays.
    """
    # Short, as names are limited; processes on other machines may have the same number.
    temporary = path.with_name(f".medusa-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file; replaces the old one at the end, leaves nothing on an error.

    Args:
      path: from `check_output`, or of a file in a folder that is known to be writable.
      text: the content.

    Raises:
      UserError: writing failed, for example because the disk is full.
    """
    try:
        with replacing(path) as new:
            new.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, as `write_text` does.

    Args:
      path: see `write_text`.
      value: JSON values.

    Raises:
      UserError: writing failed, or a number is not finite, which JSON cannot hold.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError:
        raise UserError(f"cannot write {path}: a number in it is not finite") from None
    write_text(path, text)


def _cannot_write(path: str | Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write {path} ({reason}): name a file in a folder that is writable")
