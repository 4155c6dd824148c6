"""What a working folder keeps of a run beside its checkpoints.

settings.json, environment.json (commit, device, versions, command, see `environment`; from the
start without a checkpoint), and token_map.npy where the heads have a draft vocabulary.
"""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import replacing, write_json
from medusa_jax.io.json_file import read_json
from train.folder import AnyPath, Folder, reaching
from train.recipe import make_settings
from train.settings import Settings

_SETTINGS = "settings.json"
_ENVIRONMENT = "environment.json"
_TOKEN_MAP = "token_map.npy"


def write_run(
    folder: Folder,
    settings: Settings,
    token_map: np.ndarray | None = None,
    *,
    is_new: bool = True,
) -> None:
    """Notes settings, environment and draft vocabulary; for one process, at the start of a run.

    Args:
      folder: exists, if it is a local one; for a bucket, the files are uploaded later.
      settings: of the run.
      token_map: int [Vd], token of each draft id; None: the heads propose from all tokens.
      is_new: the run begins here; one that goes on keeps the environment that it began in.

    Raises:
      UserError: the folder cannot be written.
    """
    write_json(folder.local / _SETTINGS, dataclasses.asdict(settings))
    if is_new:
        write_json(folder.local / _ENVIRONMENT, environment("train.main"))
    try:
        if token_map is None:
            _remove_token_map(folder)
        else:
            _write_token_map(folder.local, token_map)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def _remove_token_map(folder: Folder) -> None:
    """Removes that of an earlier run, which ended before its first checkpoint."""
    with reaching(folder.path):
        if (folder.path / _TOKEN_MAP).exists():
            (folder.path / _TOKEN_MAP).unlink()


def _write_token_map(workdir: Path, token_map: np.ndarray) -> None:
    # A file, not its name, to which NumPy would append ".npy".
    with replacing(workdir / _TOKEN_MAP) as new, new.open("wb") as file:
        np.save(file, np.asarray(token_map, np.int32))


def read_run(workdir: str | AnyPath) -> tuple[Settings, np.ndarray | None]:
    """The settings of a run, and its draft vocabulary (int32 [Vd]) if it has one.

    Args:
      workdir: of the run; also gs://BUCKET/PATH.

    Raises:
      UserError: the folder holds no run, or its files are damaged.
    """
    with Folder(workdir) as folder:
        folder.fetch(_SETTINGS, _TOKEN_MAP)
        if not (folder.local / _SETTINGS).is_file():
            raise UserError(f"{folder} holds no run ({_SETTINGS} is missing): name its --workdir")
        settings = _settings(folder)
        if not (folder.local / _TOKEN_MAP).is_file():
            return settings, None
        try:
            return settings, np.load(folder.local / _TOKEN_MAP, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{folder.path / _TOKEN_MAP} cannot be read ({error})") from None


def _settings(folder: Folder) -> Settings:
    file = folder.path / _SETTINGS
    hint = "rerun the run's own command, which writes it again"
    values = read_json(folder.local / _SETTINGS, hint, name=file)
    try:
        return make_settings(ConfigDict(values), is_done=True)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
