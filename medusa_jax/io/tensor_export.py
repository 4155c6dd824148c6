"""Writes safetensors files."""

import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from medusa_jax.errors import UserError


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file beside `path` and renames it, so that nobody ever sees half of it.

    Args:
      path: of the `.safetensors` file; replaced where it exists.
      tensors: name to array, each stored in the dtype that it has.

    Raises:
      UserError: the file cannot be written.
    """
    # Processes on other machines may have the same number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        # transformers refuses files that do not name a framework.
        save_file(arrays, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)  # safetensors makes its files readable by their owner alone
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot write {path} ({reason}): choose a folder with free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
