"""Where and from what a measurement was made."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "torch", "transformers")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(module: str, arguments: Sequence[str] = sys.argv[1:]) -> dict[str, Any]:
    """JSON values that a reader needs to judge or repeat a measurement.

    Args:
      module: the one that was run with `python -m`.
      arguments: of its command line.
    """
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "commit": _commit(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "runtime": " ".join(device.client.platform_version.split()),
        },
        "cpu": cpu_model(),
        "cores": cores(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version()}
        | {p: package_version(p) for p in _PACKAGES},
    }


def package_version(package: str) -> str | None:
    """Version of an installed package; None: it is used from where it lies, or is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """Commit of the running code, followed by "-dirty" when files differ; None outside a clone."""
    source = Path(__file__).resolve()
    # An installed copy may lie inside some other project's repository.
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
