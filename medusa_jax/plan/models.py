"""The network of a model, from its config.json alone: no weights are needed to plan."""

import importlib.resources
import json
from pathlib import Path

from medusa_jax.config import LlamaConfig
from medusa_jax.io import hub
from medusa_jax.io.default_model import DEFAULT_MODEL_ID
from medusa_jax.io.hf.config import parse_config
from medusa_jax.io.model import model_config


def config_of(model: str | None) -> LlamaConfig:
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
    return model_config(hub.resolve_config(model))


def _shipped() -> dict[str, dict]:
    source = importlib.resources.files("medusa_jax").joinpath("data/model_configs.json")
    return json.loads(source.read_text(encoding="utf-8"))
