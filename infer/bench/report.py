"""Writes `--output`."""

import json
import os
from pathlib import Path
from typing import Any

from medusa_jax.errors import UserError


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes the report as indented JSON; replaces the file at the end.

    Args:
      path: from `infer.output.check_output`.
      report: JSON values.

    Raises:
      UserError: writing failed.
    """
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".medusa-{os.getpid()}.tmp")  # short: names are limited
    try:
        temporary.write_text(text, encoding="ascii")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): name another file") from None
    finally:
        temporary.unlink(missing_ok=True)
