"""Paths as users write them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from medusa_jax.errors import UserError


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path whose `~` is expanded as in a shell: `~name` of nobody stays as it is."""
    return Path(os.path.expanduser(path))  # Path.expanduser would raise


@contextlib.contextmanager
def looking_at(path: str | os.PathLike[str]) -> Iterator[None]:
    """Refuses a path that cannot be looked at: somebody else's, or too long a name.

    Raises:
      UserError: the system has refused what the body does.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot look at {path} ({error.strerror}): name a path that you may read"
        ) from None
