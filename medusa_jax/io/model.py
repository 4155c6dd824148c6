"""One call that loads any supported model: configuration, parameters, tokenizer, end ids."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from medusa_jax.config import LlamaConfig
from medusa_jax.io.hf.config import eos_ids, parse_config
from medusa_jax.io.hf.tokenizer import load_tokenizer
from medusa_jax.io.hf.weights import abstract_params, load_safetensors
from medusa_jax.io.hub import resolve
from medusa_jax.io.json_file import read_json
from medusa_jax.sharding import param_shardings


@dataclass(frozen=True)
class LoadedModel:
    """A backbone ready to run.

    Attributes:
      config: of the network.
      params: backbone parameters, nested dicts of arrays.
      tokenizer: a transformers tokenizer.
      eos_ids: every id that ends a sequence; may be empty.
      path: the folder or GGUF file it came from.
    """

    config: LlamaConfig
    params: dict[str, Any]
    tokenizer: Any
    eos_ids: tuple[int, ...]
    path: Path


def load_model(
    reference: str, dtype: Any, mesh: Mesh | None = None, quantize: str = "none"
) -> LoadedModel:
    """Loads a model from a Hugging Face folder, a hub id or a GGUF file.

    A sequence ends at any id that the generation config, the config or the tokenizer names:
    published chat models often list the end of a turn in only one of the three.

    Args:
      reference: see `medusa_jax.io.hub.resolve`.
      dtype: of the parameters.
      mesh: where to put them, by `medusa_jax.sharding.param_shardings`; None: the default device.
      quantize: see `medusa_jax.io.hf.weights.load_safetensors`.

    Returns:
      The model.

    Raises:
      UserError: the reference leads nowhere, or what it leads to is broken or not supported.
    """
    path = resolve(reference)
    load = _load_gguf if path.is_file() else _load_folder
    return load(path, dtype, mesh, quantize)


def model_config(path: Path) -> LlamaConfig:
    """The network of a model, without its weights.

    Args:
      path: its folder, the config.json in it, or a GGUF file.

    Raises:
      UserError: it cannot be read or is not supported.
    """
    path = path / "config.json" if path.is_dir() else path
    if path.suffix.lower() == ".gguf":
        from medusa_jax.io.gguf.config import read_config
        from medusa_jax.io.gguf.file import read_header

        return read_config(read_header(path))
    return parse_config(read_json(path))


def _load_folder(folder: Path, dtype: Any, mesh: Mesh | None, quantize: str) -> LoadedModel:
    raw = read_json(folder / "config.json")
    config = parse_config(raw)
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else None
    tokenizer = load_tokenizer(folder)
    ends = _union(eos_ids(raw, generation), eos_ids(raw), tokenizer)
    shardings = None if mesh is None else param_shardings(mesh, abstract_params(config, dtype))
    params = load_safetensors(folder, config, dtype, shardings=shardings, quantize=quantize)
    return LoadedModel(config, params, tokenizer, ends, folder)


def _load_gguf(path: Path, dtype: Any, mesh: Mesh | None, quantize: str) -> LoadedModel:
    from medusa_jax.io.gguf.load import load_gguf
    from medusa_jax.io.gguf.tokenizer import build_tokenizer

    config, params, ends = load_gguf(path, dtype, mesh, quantize)
    tokenizer = build_tokenizer(path)
    return LoadedModel(config, params, tokenizer, _union(ends, (), tokenizer), path)


def _union(first: tuple[int, ...], second: tuple[int, ...], tokenizer: Any) -> tuple[int, ...]:
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return tuple(dict.fromkeys((*first, *second, *own)))
