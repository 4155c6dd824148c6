"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path whose `~` is expanded as in a shell: `~name` of nobody stays as it is."""
    return Path(os.path.expanduser(path))  # Path.expanduser would raise
