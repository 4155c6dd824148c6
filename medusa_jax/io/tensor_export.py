"""Writes safetensors files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from medusa_jax.errors import UserError
from medusa_jax.io.atomic import replacing


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file beside `path` and renames it, so that nobody ever sees half of it.

    Args:
      path: of the `.safetensors` file; replaced where it exists.
      tensors: name to array, each stored in the dtype that it has.

    Raises:
      UserError: the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        with replacing(path) as new:
            new.touch()
            mode = new.stat().st_mode
            # transformers refuses files that do not name a framework.
            save_file(arrays, new, metadata={"format": "pt"})
            new.chmod(mode)  # safetensors makes its files readable by their owner alone
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {path} ({reason}): choose a folder with free space"
        ) from error
