"""Where this project keeps what it downloads and compiles."""

import os
from pathlib import Path

from medusa_jax.paths import user_path


def cache_dir() -> Path:
    """The user's cache folder of this project (not created here).

    `$MEDUSA_JAX_CACHE` when set, else `$XDG_CACHE_HOME/medusa_jax`, else `~/.cache/medusa_jax`.
    """
    if own := os.environ.get("MEDUSA_JAX_CACHE"):
        return user_path(own)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return user_path(base) / "medusa_jax"
