"""Writes `--output`."""

import json
from pathlib import Path
from typing import Any

from medusa_jax.io.atomic import write_text


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes the report as indented JSON; replaces the file at the end.

    Args:
      path: from `medusa_jax.io.atomic.check_output`.
      report: JSON values.

    Raises:
      UserError: writing failed.
    """
    write_text(path, json.dumps(report, indent=2, allow_nan=False) + "\n")
