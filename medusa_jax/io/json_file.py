"""Reads JSON files."""

import json
from typing import Any, Protocol

from medusa_jax.errors import UserError


class _File(Protocol):
    def read_bytes(self) -> bytes: ...


def read_json(
    file: _File, hint: str = "download it again", *, name: object = None
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
      file: its path, perhaps in a bucket.
      hint: how to mend a damaged one.
      name: what to call it, if it is a copy of another file.

    Raises:
      UserError: the file is missing, unreadable, not JSON, or not an object.
    """
    name = file if name is None else name
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{name} is missing: pass a complete Hugging Face model folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be read as JSON ({error}): {hint}") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} does not hold a JSON object: {hint}")
    return value
