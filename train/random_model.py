"""The model "random:tiny": random weights and a byte tokenizer, made on the spot, never downloaded.

It is the size of stories260K. The weights are the same on every machine and in every run.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io import hub
from medusa_jax.io.default_model import default_model_path
from medusa_jax.io.heads.load import resolve_heads
from medusa_jax.io.hf.tokenizer import quiet_transformers
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.io.load import with_heads
from medusa_jax.io.model import LoadedModel, load_model, model_config
from medusa_jax.io.placement import place_params
from medusa_jax.model_shapes import SHAPES

RANDOM_TINY = "random:tiny"

_END = "<|im_end|>"
# Padded to a multiple of 8, so that a vocabulary axis can be divided among the devices of a test.
_SPECIAL = ("<|im_start|>", _END, *(f"<|unused_{i}|>" for i in range(6)))
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CONFIG = dataclasses.replace(SHAPES["tiny"], vocab_size=256 + len(_SPECIAL), intermediate_size=176)
_SEED = 0


def load_base(model: str | None, dtype: Any, mesh: jax.sharding.Mesh | None = None) -> LoadedModel:
    """A backbone to train or export.

    Args:
      model: "random:tiny", or what `medusa_jax.load` takes.
      dtype: of the parameters.
      mesh: where to put them, by `medusa_jax.sharding.param_shardings`; None: the default device.

    Raises:
      UserError: the model cannot be found or read.
    """
    if model == RANDOM_TINY:
        params = place_params(_weights(np.dtype(dtype)), mesh)
        tokenizer = byte_tokenizer()
        return LoadedModel(_CONFIG, params, tokenizer, (tokenizer.eos_token_id,), Path(RANDOM_TINY))
    return load_model(str(default_model_path()) if model is None else model, dtype, mesh)


def base_config(model: str | None) -> LlamaConfig:
    """The network of a model, without its weights.

    Args:
      model: see `load_base`.

    Raises:
      UserError: the model cannot be found or read.
    """
    if model == RANDOM_TINY:
        return _CONFIG
    return model_config(default_model_path() if model is None else hub.resolve(model))


def load_lm(
    model: str | None,
    medusa: str | None = None,
    *,
    dtype: str,
    mesh: jax.sharding.Mesh | None = None,
    heads_dtype: str | None = None,
) -> MedusaLM:
    """A backbone, and the heads to start from where some are named.

    Args:
      model: "random:tiny", or what `medusa_jax.load` takes.
      medusa: heads (folder, file or hub id); None: none.
      dtype: of the backbone, "float32" or "bfloat16".
      mesh: see `load_base`.
      heads_dtype: default: that of the backbone.

    Raises:
      UserError: something is missing, cannot be read or does not fit together.
    """
    try:
        heads = None if medusa is None else resolve_heads(medusa)
    except UserError as error:
        raise UserError(f"heads to start from: {error}") from None
    return with_heads(load_base(model, jnp.dtype(dtype), mesh), heads, dtype, mesh, heads_dtype)


def byte_tokenizer() -> Any:
    """A transformers tokenizer whose tokens are bytes and ChatML's marks, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in _SPECIAL])
    with quiet_transformers() as transformers:
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token=_END,
            pad_token=_END,
            chat_template=_CHAT_TEMPLATE,
            model_max_length=_CONFIG.max_position,
            clean_up_tokenization_spaces=False,
        )


def _weights(dtype: np.dtype) -> dict[str, Any]:
    """Matrices with the variance 1 / in, so that hidden states keep their size; norms of one."""
    rng = np.random.default_rng(_SEED)

    def weight(like: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(like.shape) == 1:
            return np.ones(like.shape, like.dtype)
        x = rng.standard_normal(like.shape, np.float32) * like.shape[1] ** -0.5
        return x.astype(like.dtype)

    return jax.tree.map(weight, abstract_params(_CONFIG, dtype))
