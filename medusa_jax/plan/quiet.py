"""Keeps compilers quiet that write to the terminal past Python."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """What the body's C++ code writes to stderr is dropped, unless the body fails to return.

    libtpu complains about the names of hosts of machines without a TPU, at every start; no option
    of its own silences all of it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
    finally:
        os.close(kept)
