"""Files of ShareGPT-format conversations as tensorflow-datasets, without TensorFlow."""

import contextlib
import hashlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from rich.progress import Progress, ProgressColumn, SpinnerColumn, TextColumn

from medusa_jax.cli.console import make_console
from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir
from train.data import sharegpt


class ShareGptFile(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Conversations of one ShareGPT-format file, in the file's order."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded, so there is no list of checksums to look for

    def __init__(self, *, path: Path, data_errors: str, advance: Callable[[], None], **kwargs: Any):
        """Builder of `path`; calls `advance` for every row."""
        self._path, self._data_errors, self._advance = path, data_errors, advance
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        turn = {"role": text(), "content": text()}
        features = {
            "where": text(doc="File and line."),
            "id": text(),
            "truncated": tfds.features.Scalar(np.bool_, doc="The last reply was cut off."),
            "conversations": tfds.features.Sequence(turn),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(skipped=0, first_skipped=""),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        skipped: list[str] = []
        rows = sharegpt.checked_rows(self._path, self._data_errors, skipped.append)
        for number, row in enumerate(rows):
            self._advance()
            yield (
                number,
                {
                    "where": f"{self._path}:{row.line}",
                    "id": str(row.value.get("id", f"row {number}")),
                    "truncated": bool(row.value.get("truncated", False)),
                    "conversations": sharegpt.messages(row.value),
                },
            )
        if skipped:
            metadata: Any = self.info.metadata
            metadata.update(skipped=len(skipped), first_skipped=skipped[0])

    def _example_writer(self) -> tfds.core.ExampleWriter:
        file_format: Any = self.info.file_format
        return _ParquetListWriter(file_format)


class _ParquetListWriter(tfds.core.ExampleWriter):
    """Hands over lists: tensorflow-datasets 4.9.10 loses rows of an iterator in Parquet files."""

    def write(self, path: Any, examples: Any) -> Any:
        is_parquet = self.file_format == tfds.core.FileFormat.PARQUET
        return super().write(path, list(examples) if is_parquet else examples)


def prepare(path: Path, data_errors: str, progress: bool = True) -> tuple[Any, str]:
    """Prepares a file once, in the user's cache folder under a name derived from its content.

    Args:
      path: of a ShareGPT-format file.
      data_errors: "stop" or "skip"; see `sharegpt.checked_rows`.
      progress: show progress on stderr.

    Returns:
      A tensorflow-datasets builder that is ready for `as_data_source("train")`, and the name.

    Raises:
      UserError: a file that cannot be read, or bad rows; the cache folder cannot be written.
    """
    name = f"conversations-{_key(path, data_errors)}"
    folder = cache_dir() / "data" / name
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder.parent) as scratch:
                publish(_build(path, data_errors, Path(scratch), progress), folder)
        except OSError as error:
            raise UserError(
                f"cannot keep prepared data in {folder.parent} ({error.strerror or error}): "
                "set MEDUSA_JAX_CACHE to a folder that is writable"
            ) from error
    return tfds.builder_from_directory(folder), name


def publish(finished: Path, folder: Path) -> None:
    """Moves a finished folder to its place, unless another process was faster."""
    try:
        os.rename(finished, folder)
    except OSError:
        if not folder.exists():
            raise


def _key(path: Path, data_errors: str) -> str:
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    version = ShareGptFile.VERSION
    return hashlib.sha256(f"{version} {content} {data_errors}".encode()).hexdigest()[:16]


def _build(path: Path, data_errors: str, scratch: Path, progress: bool) -> Path:
    """Runs the builder in an empty folder; returns the folder that it made."""
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed} conversations"))
    bar = progress_bar(progress, *columns)
    # The builder announces on stdout what it does, with progress bars of its own.
    with bar, contextlib.redirect_stdout(io.StringIO()), _no_tqdm():
        task = bar.add_task(f"Reading {path.name}", total=None)
        builder = ShareGptFile(
            path=path,
            data_errors=data_errors,
            advance=lambda: bar.advance(task),
            data_dir=scratch,
            file_format="array_record" if _has_array_record() else "parquet",
        )
        builder.download_and_prepare()
    return Path(builder.data_dir)


def progress_bar(wanted: bool, *columns: ProgressColumn) -> Progress:
    """A bar on stderr; none when stderr is not a terminal, so that errors stay one line."""
    console = make_console(stderr=True)
    return Progress(*columns, console=console, disable=not (wanted and console.is_terminal))


def _has_array_record() -> bool:
    return importlib.util.find_spec("array_record") is not None


@contextlib.contextmanager
def _no_tqdm() -> Iterator[None]:
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
