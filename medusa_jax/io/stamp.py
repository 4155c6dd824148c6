"""Tells whether files are still what they were, without reading them."""

from collections.abc import Collection
from pathlib import Path
from typing import Any


def stamp(path: Path, suffixes: Collection[str] | None = None) -> list[Any]:
    """What changes when a file, or one in a folder, does: names, sizes and times.

    Args:
      path: of the file or folder; may be missing.
      suffixes: of those files directly in the folder that count; None: all, however deep.

    Returns:
      JSON values.
    """
    inside = path.rglob("*") if suffixes is None else path.glob("*")
    files = (file for file in inside if suffixes is None or file.suffix in suffixes)
    stats = [(file, file.stat()) for file in (path, *sorted(files)) if file.is_file()]
    folder = path if path.is_dir() else path.parent
    found = [[str(f.relative_to(folder)), s.st_size, s.st_mtime_ns] for f, s in stats]
    return [str(path.resolve()), *found]
