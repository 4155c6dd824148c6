"""Silences compilers that write to the terminal past Python."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Drops what the body's C++ code writes to stderr; what Python writes is shown."""
    sys.stderr.flush()
    before, kept, nowhere = sys.stderr, os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        if _writes_to(before, 2):
            with os.fdopen(os.dup(kept), "w", buffering=1, errors="replace") as sys.stderr:
                yield
        else:
            yield
    finally:
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)


def _writes_to(file: object, descriptor: int) -> bool:
    try:
        return file.fileno() == descriptor  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return False
