"""A run's folder: on this machine, or as gs://BUCKET/PATH in Google Cloud Storage.

Orbax writes checkpoints straight into either. Everything else of a run is written as ordinary
local files; for a bucket they are staged in a temporary folder (TMPDIR says where) and uploaded
with every checkpoint and at the end.
"""

import contextlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from etils import epath

from medusa_jax.errors import UserError, in_short
from medusa_jax.paths import user_path

AnyPath = Path | epath.Path
# What a run leaves beside its checkpoints. Hidden states are not worth an upload: they can be
# computed again.
_FILES = (
    "settings.json",
    "environment.json",
    "token_map.npy",
    "metrics.jsonl",
    "tensorboard",
    "profile",
)


def run_path(workdir: str | Path | epath.Path) -> AnyPath:
    """The path that a --workdir names.

    Args:
      workdir: a local path, of which "~" is expanded, or gs://BUCKET/PATH.

    Raises:
      UserError: another kind of address, or what reads and writes buckets is not installed.
    """
    address = re.match(r"(\w{2,}):/+(.*)", str(workdir))  # pathlib makes gs:/ of gs://
    if not address:
        return user_path(workdir)
    scheme, rest = address.groups()
    if scheme != "gs":
        raise UserError(f"{workdir}: a run is kept in a local folder or in gs://BUCKET/PATH")
    if not re.fullmatch(r"[^/]+/+[^/]+.*", rest):
        raise UserError(f"{workdir}: name a bucket and a folder in it, gs://BUCKET/PATH")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{workdir} needs a package for Google Cloud Storage: pip install 'medusa-jax[gcs]'"
        )
    return epath.Path(f"gs://{rest}")


class Folder:
    """Where a run keeps its files; a context manager that ends with the temporary folder.

    Attributes:
      path: where they end up, and where checkpoints go at once.
      local: where everything but checkpoints is written: the same, or a temporary folder.
    """

    def __init__(self, workdir: str | Path | epath.Path) -> None:
        """Writes nothing into the folder yet.

        Raises:
          UserError: see `run_path`.
        """
        self.path = run_path(workdir)
        self._stage = contextlib.ExitStack()
        self._uploaded: dict[Path, tuple[int, int]] = {}
        if isinstance(self.path, Path):
            self.local = self.path
        else:
            scratch = tempfile.TemporaryDirectory(prefix="medusa-run-")
            self.local = Path(self._stage.enter_context(scratch))

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stage.close()

    def __str__(self) -> str:
        return str(self.path)

    def fetch(self, *names: str) -> None:
        """Downloads those of the files that exist from a bucket; local ones are there already.

        Raises:
          UserError: the bucket cannot be read.
        """
        if isinstance(self.path, Path):
            return
        with reaching(self.path):
            for name in names:
                if (self.path / name).exists():
                    (self.path / name).copy(self.local / name, overwrite=True)

    def upload(self, *names: str) -> None:
        """Uploads what changed to a bucket, from the first process; nothing from a local folder.

        The deepest files come first and every `config.json` after its neighbours, so that a model
        whose upload was cut short is not taken for a whole one.

        Args:
          *names: files or folders; default: all that a run leaves beside its checkpoints and its
            export.

        Raises:
          UserError: the bucket cannot be written.
        """
        if isinstance(self.path, Path) or jax.process_index():
            return
        with reaching(self.path):
            for file in sorted(self._files(names or _FILES), key=_order):
                stat = file.stat()
                version = (stat.st_mtime_ns, stat.st_size)
                if self._uploaded.get(file) != version:
                    target = self.path / str(file.relative_to(self.local))
                    epath.Path(file).copy(target, overwrite=True)
                    self._uploaded[file] = version

    def _files(self, names: tuple[str, ...]) -> Iterator[Path]:
        for name in names:
            path = self.local / name
            yield from (x for x in (path, *path.rglob("*")) if x.is_file())


def _order(file: Path) -> tuple[int, bool, str]:
    return -len(file.parts), file.name == "config.json", file.name


@contextlib.contextmanager
def reaching(path: AnyPath) -> Iterator[None]:
    """Turns what the libraries for buckets raise, which has no common class, into one line.

    For a local path it does nothing.
    """
    try:
        yield
    except Exception as error:
        if isinstance(path, Path) or isinstance(error, UserError):
            raise
        raise UserError(
            f"cannot use {path} ({in_short(error)}): check that the bucket exists and that you may "
            "write to it (gcloud auth application-default login), then rerun the same command"
        ) from error


@contextlib.contextmanager
def saving(path: AnyPath) -> Iterator[None]:
    """`reaching`, and for a local path, too, one line if the disk is full or cannot be written."""
    try:
        with reaching(path):
            yield
    except (OSError, ValueError) as error:
        # TensorStore, which writes the arrays, raises a ValueError that ends in the code.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(code[1]) if code else getattr(error, "errno", None)
        if number is None:
            raise
        raise UserError(
            f"cannot write to {path} ({os.strerror(number)}): mend that, then rerun the same "
            "command to resume from the last checkpoint"
        ) from error


@contextlib.contextmanager
def restoring(step: AnyPath) -> Iterator[None]:
    """`reaching`, and for a local checkpoint, too, one line if files are cut off or missing."""
    try:
        with reaching(step):
            yield
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"cannot read the checkpoint {step} ({in_short(error)}): if it is damaged, move "
            "it away, and the one before counts"
        ) from error
