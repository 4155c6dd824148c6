"""Which run a folder belongs to, and whether all processes belong to the same one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json
from medusa_jax.io.json_file import read_json
from train.distributed import from_each
from train.folder import AnyPath

_FILE = "run.json"


def claim(workdir: AnyPath, fingerprint: Mapping[str, Any], *, is_started: bool) -> None:
    """Notes which run a folder belongs to; refuses a folder that belongs to another.

    Args:
      workdir: exists, if it is a local one.
      fingerprint: what must not change between a run and its continuation; JSON values.
      is_started: there are checkpoints. A run that ended before the first one left nothing.

    Raises:
      UserError: the folder holds checkpoints of another run; or it cannot be written.
    """
    file = workdir / _FILE
    mine = json.loads(json.dumps(fingerprint))
    if not is_started:
        if jax.process_index() == 0:
            _write(file, mine)
        return
    if not file.exists():
        raise UserError(
            f"{workdir} holds checkpoints of an unknown run (no {_FILE}): choose another --workdir"
        )
    old, new = _flat(_read(file)), _flat(mine)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            raise UserError(
                f"{workdir} holds a run with {key} = {old.get(key)!r}, this one has "
                f"{new.get(key)!r}: resume with the old value, or choose another --workdir"
            )


def _write(file: AnyPath, value: Any) -> None:
    if isinstance(file, Path):
        write_json(file, value)
    else:  # in a bucket a file appears whole anyway
        file.write_text(json.dumps(value, indent=2) + "\n")


def _read(file: AnyPath) -> dict[str, Any]:
    return read_json(file, "it says what run this is of; restore it, or choose another --workdir")


def check_same(values: Mapping[str, Any]) -> None:
    """Refuses processes that would not run the same; every process calls it, and all refuse.

    Args:
      values: JSON values that must be equal on every process, under the same keys.

    Raises:
      UserError: the first key whose values differ, and where.
    """
    flat = _flat(json.loads(json.dumps(values)))
    hash_PKB = from_each(np.stack([_hash(value) for value in flat.values()]))
    differs_PK = (hash_PKB != hash_PKB[:1]).any(axis=-1)
    if differs_PK.any():
        key_number = int(differs_PK.any(axis=0).argmax())
        process = int(differs_PK[:, key_number].argmax())
        key, value = list(flat.items())[key_number]
        raise UserError(
            f"processes 0 and {process} differ in {key} (process {jax.process_index()} has "
            f"{value!r}): start all with the same command and the same data"
        )


def _hash(value: Any) -> np.ndarray:
    digest = hashlib.sha256(json.dumps(value).encode()).digest()
    return np.frombuffer(digest, np.uint8).astype(np.int32)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
