"""A backbone as a transformers model on torch, to compare with. Needs torch."""

import importlib
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from medusa_jax.config import LlamaConfig
from medusa_jax.io.hf.config_export import hf_config
from medusa_jax.io.hf.tokenizer import quiet_transformers
from medusa_jax.io.hf.weights import hf_keys


def to_transformers(config: LlamaConfig, params: dict[str, Any], dtype: str) -> Any:
    """The same network with the same weights, as an `AutoModelForCausalLM`.

    Args:
      config: of the backbone.
      params: its parameters, which are copied.
      dtype: "float32" or "bfloat16".

    Returns:
      A torch module on the CPU, in training mode as transformers leaves it.

    Raises:
      UserError: Hugging Face has no configuration for this network.
    """
    torch = importlib.import_module("torch")
    flat: dict[Any, Any] = dict(flatten_dict(params))
    tensors = {key: _tensor(torch, flat[path]) for path, key in hf_keys(config).items()}
    if config.tie_embeddings:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    raw = hf_config(config)
    with quiet_transformers() as transformers:
        own = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
        model = transformers.AutoModelForCausalLM.from_config(own, dtype=getattr(torch, dtype))
    model.load_state_dict(tensors)
    return model


def _tensor(torch: Any, value: jax.Array) -> Any:
    # By way of float32, which holds every bfloat16: numpy has no bfloat16 that torch reads.
    return torch.from_numpy(np.array(value, dtype=np.float32))
