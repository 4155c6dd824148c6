"""What `--model` and `--medusa` name: a folder, a GGUF file, or a Hugging Face hub id."""

import contextlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from medusa_jax.errors import UserError
from medusa_jax.io.json_file import read_json
from medusa_jax.paths import looking_at, user_path

# A repository may hold its weights three times over (consolidated.*, *.bin, *.gguf): take one.
_TEXT_PATTERNS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "medusa_lm_head.*",
    "acceptance.json",
)
_SAFETENSORS_PATTERNS = ("model*.safetensors", "model.safetensors.index.json")
_BIN_PATTERNS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
_HUB_ID = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_TIMEOUT_S = 10
# Folder in a folder of exported heads: the model that they were trained with.
BACKBONE = "backbone"
_BACKBONE_PATTERN = f"{BACKBONE}/*"


def resolve(reference: str) -> Path:
    """Turns a user's model reference into a path on this machine.

    Args:
      reference: an existing folder (for exported heads, the `BACKBONE` in it), an existing `.gguf`
        file, or a hub id `organisation/name`: only the files that this project reads are
        downloaded, into Hugging Face's cache.

    Returns:
      A folder, or a `.gguf` file.

    Raises:
      UserError: there is no such path; the hub cannot be reached, does not know the repository,
        or does not let this user read it.
    """
    path = user_path(reference)
    with looking_at(reference):
        if reference and path.is_dir():
            return _model_folder(path)
        is_file, is_gguf = path.is_file(), path.suffix.lower() == ".gguf"
    if is_file:
        if is_gguf:
            return path
        raise UserError(f"{reference} is neither a model folder nor a .gguf file")
    return _model_folder(download(reference))


def _model_folder(folder: Path) -> Path:
    return folder / BACKBONE if (folder / BACKBONE / "config.json").is_file() else folder


def download(reference: str, *, backbone: bool = True) -> Path:
    """The folder of a hub id: only the files that this project reads are downloaded.

    Args:
      reference: `organisation/name`.
      backbone: whether the model beside exported heads is wanted, too.

    Raises:
      UserError: it is no hub id; see `resolve`.
    """
    if _HUB_ID.fullmatch(reference) and not reference.lower().endswith(".gguf"):
        return _download(reference, backbone)
    wanted = (
        "pass a model folder, a .gguf file or a hub id like HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    if not backbone:
        wanted = "pass a folder or file with heads (DIR/export of a run), or a hub id"
    raise UserError(f"{reference!r} does not exist: {wanted}")


def resolve_config(reference: str) -> Path:
    """A model's config.json; for a hub id it is the only file that is downloaded.

    Args:
      reference: see `resolve`.

    Returns:
      The config.json, or the `.gguf` file.

    Raises:
      UserError: see `resolve`.
    """
    path = user_path(reference)
    with looking_at(reference):
        is_here = path.exists()
    if is_here or not _HUB_ID.fullmatch(reference) or path.suffix.lower() == ".gguf":
        found = resolve(reference)
        return found / "config.json" if found.is_dir() else found
    return _download_config(reference)


def _download_config(repo: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    try:
        path = Path(hf_hub_download(repo, "config.json", etag_timeout=_TIMEOUT_S))
        # That of heads, with a model of their own or none (format "vllm" has the type).
        if read_json(path).get("model_type") in (None, "medusa"):
            with contextlib.suppress(EntryNotFoundError):
                name = f"{BACKBONE}/config.json"
                path = Path(hf_hub_download(repo, name, etag_timeout=_TIMEOUT_S))
        return path
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise _no_access(repo) from error
    except Exception as error:  # the network stack's errors have no common base class
        raise UserError(
            f"there is no folder {repo} here, and the Hugging Face hub cannot provide its "
            f"config.json ({_reason(error)}): go online once, or pass the model's folder"
        ) from error


def _download(repo: str, backbone: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        siblings = HfApi().model_info(repo, timeout=_TIMEOUT_S).siblings or []
    except RepositoryNotFoundError as error:
        raise _no_access(repo) from error
    except Exception as error:  # the network stack's errors have no common base class
        return _cached(repo, backbone, error)
    files = [sibling.rfilename for sibling in siblings]
    _check_files(repo, files)
    patterns = _patterns(files, backbone)
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except RepositoryNotFoundError as error:  # gated repositories show their list to everybody
        raise _no_access(repo) from error
    except Exception as error:
        raise UserError(
            f"downloading {repo} failed ({_reason(error)}): run it again, finished files are kept"
        ) from error


def _check_files(repo: str, files: Sequence[str]) -> None:
    ggufs = [name for name in files if name.lower().endswith(".gguf")]
    if ggufs and not any(fnmatch(name, "*config.json") for name in files):
        raise UserError(
            f"{repo} holds GGUF files only: download one (hf download {repo} {ggufs[0]}) and pass "
            "its path"
        )


def _patterns(files: Sequence[str], backbone: bool) -> list[str]:
    has_safetensors = any(fnmatch(name, _SAFETENSORS_PATTERNS[0]) for name in files)
    weights = _SAFETENSORS_PATTERNS if has_safetensors else _BIN_PATTERNS
    return [*_TEXT_PATTERNS, *weights, *([_BACKBONE_PATTERN] if backbone else [])]


def _cached(repo: str, backbone: bool, cause: Exception) -> Path:
    from huggingface_hub import snapshot_download

    patterns = _patterns(["model.safetensors"], backbone)
    try:
        return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=True))
    except Exception:
        raise UserError(
            f"there is no folder {repo} here, and the Hugging Face hub cannot provide it "
            f"({_reason(cause)}): go online once, or pass the folder of a downloaded model"
        ) from cause


def _no_access(repo: str) -> UserError:
    return UserError(
        f"there is no folder {repo} here, and the Hugging Face hub has no public model of that "
        f"name: check it, or if it is gated, accept its licence at huggingface.co/{repo} and run "
        "`hf auth login`"
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
