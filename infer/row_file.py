"""Writes `--output`: JSON lines that appear complete or not at all."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medusa_jax.io.atomic import write_text


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object per line; replaces the file at the end, leaves nothing on an error.

    Args:
      path: from `medusa_jax.io.atomic.check_output`.
      rows: of JSON values.

    Raises:
      UserError: writing failed, for example because the disk is full.
    """
    # Escaped to ASCII: U+2028 and its like would end the line for some readers.
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
