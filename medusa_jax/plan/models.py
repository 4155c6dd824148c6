"""The network of a model, from its config.json alone: no weights are needed to plan."""

import importlib.resources
import json
from pathlib import Path

from medusa_jax.config import LlamaConfig
from medusa_jax.io import hub
from medusa_jax.io.default_model import DEFAULT_MODEL_ID
from medusa_jax.io.gguf.config import read_config
from medusa_jax.io.gguf.file import read_header
from medusa_jax.io.hf.config import parse_config
from medusa_jax.io.json_file import read_json


def model_config(model: str | None) -> LlamaConfig:
    """The network of a model.

    Args:
      model: folder, GGUF file or hub id; for a hub id only its config.json is downloaded (those of
        the recipes' models come with the package). None: SmolLM2-135M-Instruct.

    Raises:
      UserError: the model cannot be found or read.
    """
    model = DEFAULT_MODEL_ID if model is None else model
    if not Path(model).exists() and model in _shipped():
        return parse_config(_shipped()[model])
    path = hub.resolve_config(model)
    if path.suffix.lower() == ".gguf":
        return read_config(read_header(path))
    return parse_config(read_json(path))


def _shipped() -> dict[str, dict]:
    source = importlib.resources.files("medusa_jax").joinpath("data/model_configs.json")
    return json.loads(source.read_text(encoding="utf-8"))
