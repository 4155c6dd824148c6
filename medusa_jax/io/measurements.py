"""Files of what was measured: acceptance beside the heads or in the cache, step times in the cache.

Acceptance belongs to a model with its heads. Step times belong to these on one kind of device with
one version of everything that compiles or runs a step.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from medusa_jax.environment import cores, cpu_model, package_version
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.stamp import stamp
from medusa_jax.tuning.measured import Acceptance, Measured, merged, times_from_json
from medusa_jax.tuning.times import StepTimes

BESIDE_HEADS = "acceptance.json"
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")


def acceptance_file(model: Path, heads: Path) -> Path:
    """Where the acceptance of these heads is kept in the cache."""
    return _file("acceptance", {"model": stamp(model, _WEIGHTS), "heads": stamp(heads, _WEIGHTS)})


def times_file(model: Path, heads: Path, device: Any) -> Path:
    """Where step times on this kind of device are kept in the cache."""
    about = {
        "model": stamp(model, _WEIGHTS),
        "heads": stamp(heads, _WEIGHTS),
        "device": [device.platform, device.device_kind],
        "runtime": " ".join(device.client.platform_version.split()),  # CUDA's, libtpu's
        "host": [cpu_model(), cores()],
        "versions": [package_version(p) for p in ("jax", "jaxlib", "medusa-jax")],
    }
    return _file("times", about)


def read_measured(model: Path, heads: Path, device: Any) -> Measured:
    """What is known of a model with its heads on this device.

    Args:
      model: folder or file.
      heads: folder or file; see `acceptance_beside`. At temperatures that were measured here too,
        the cache counts.
      device: the one that decodes.

    Returns:
      What was measured to its end; an interrupted measurement counts for nothing.

    Raises:
      UserError: a file holds something else; it names the file.
    """
    own = read_acceptance(acceptance_file(model, heads))
    acceptance = merged(acceptance_beside(heads), own)
    file = times_file(model, heads, device)
    content = read_content(file) or {}
    times, fastest = _times(file, content), content.get("fastest")
    return Measured(acceptance, times, fastest if fastest in list(times) else None)


def acceptance_beside(heads: Path) -> Acceptance | None:
    """What heads bring along: `BESIDE_HEADS` in their folder.

    Raises:
      UserError: the file holds something else; it names the file.
    """
    return read_acceptance((heads if heads.is_dir() else heads.parent) / BESIDE_HEADS)


def read_acceptance(file: Path) -> Acceptance | None:
    """A file's complete acceptance; None: there is none.

    Raises:
      UserError: the file holds something else; it names the file.
    """
    content = read_content(file) or {}
    if "acceptance" not in content:
        return None
    return _parse(file, Acceptance.from_json, content["acceptance"])


def read_content(file: Path) -> dict[str, Any] | None:
    """A file's JSON object; None: there is no file that this user may read.

    Raises:
      UserError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # somebody else's cache folder is no reason to fail
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from None
    if not isinstance(content, dict) or not isinstance(content.get("partial", {}), dict):
        raise _unreadable(file, "not a JSON object, or not one of ours")
    return content


def write_content(file: Path, content: dict[str, Any]) -> None:
    """Writes a file of the cache, whose folder is made if need be.

    Raises:
      UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {file} ({error.strerror}): name another cache folder in "
            "$MEDUSA_JAX_CACHE"
        ) from None
    write_json(file, content)


def _times(file: Path, content: dict[str, Any]) -> dict[str, StepTimes]:
    times = content.get("times", {})
    if not isinstance(times, dict):
        raise _unreadable(file, "no step times by dtype")
    points = {dtype: _parse(file, times_from_json, value) for dtype, value in times.items()}
    return {dtype: StepTimes(own) for dtype, own in points.items() if own}


def _parse(file: Path, parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except UserError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, why: object) -> UserError:
    return UserError(f"{file}: {why}: delete the file, and measure again with infer.tune")


def _file(kind: str, about: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "measurements" / f"{kind}-{digest[:16]}.json"
