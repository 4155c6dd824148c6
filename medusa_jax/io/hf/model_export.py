"""Writes a whole model as a Hugging Face folder, with Medusa heads in it or without (format B)."""

import dataclasses
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import write_json
from medusa_jax.io.heads.save import head_tensors
from medusa_jax.io.hf.config_export import hf_config
from medusa_jax.io.hf.tokenizer import quiet_transformers
from medusa_jax.io.hf.weights import hf_keys
from medusa_jax.io.json_file import read_json
from medusa_jax.io.model import LoadedModel
from medusa_jax.io.tensor_export import save_tensors
from medusa_jax.nn.params import untied

_SHARD_BYTES = 5_000_000_000
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


def save_model(
    folder: Path,
    base: LoadedModel,
    params: dict[str, Any],
    *,
    dtype: Any,
    name: str,
    heads: tuple[MedusaConfig, dict[str, Any]] | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes weights, `config.json`, generation config and tokenizer into an empty folder.

    With heads, the result is format B: the model's own tensors, "lm_head.weight" even where it is
    the embedding, and "medusa_head.*". Every process of a multi-process run has to call this; the
    first one writes, and no process holds more than one file's tensors on its host.

    Args:
      folder: exists and is empty.
      base: the model that the weights were trained from: its configuration, its tokenizer and,
        where it came from a folder, the files beside its weights are kept.
      params: of the backbone; with an "lm_head" of their own the result is no longer tied.
      dtype: of every tensor in the files.
      name: of the base model, for `_name_or_path`.
      heads: configuration and parameters of heads that format B can hold.
      shard_bytes: no file is larger, unless a single tensor is.

    Raises:
      UserError: the heads do not fit format B, a weight is too large for `dtype`, the network has
        no Hugging Face configuration, or writing failed.
    """
    dtype = np.dtype(dtype)
    tensors = _named(base.config, params)
    settings = _settings(base, tied="lm_head" not in params) | {
        "_name_or_path": name,
        "torch_dtype": dtype.name,
        "dtype": dtype.name,
    }
    if heads is not None:
        config, head_params = heads
        head_params = jax.tree.map(to_host, head_params)
        lm_head = None if config.own_projection else to_host(tensors["lm_head.weight"])
        tensors |= head_tensors(config, head_params, "B", lm_head)
        settings |= {"medusa_num_heads": config.num_heads, "medusa_num_layers": config.num_layers}
    elif settings["tie_word_embeddings"]:
        del tensors["lm_head.weight"]
    _save_shards(folder, tensors, dtype, shard_bytes)
    if jax.process_index() == 0:
        _save_rest(folder, base, settings)


def to_host(x: Any) -> np.ndarray:
    """A whole array in this process's memory, wherever its shards are."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def to_dtype(name: str, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """x in another float dtype; integers stay as they are.

    Raises:
      UserError: a value has become infinite, here or when x was made float16.
    """
    if np.issubdtype(x.dtype, np.integer) or (x.dtype == dtype and dtype != np.float16):
        return x
    with np.errstate(over="ignore"):
        out = x.astype(dtype, copy=False)
    # Only a narrower range can do harm, and numpy does not warn for bfloat16.
    if not np.isfinite(out).all() and (x.dtype == dtype or np.isfinite(x).all()):
        raise UserError(
            f"{name} has values beyond the range of {dtype.name}: export as bfloat16 or float32"
        )
    return out


def _named(config: LlamaConfig, params: dict[str, Any]) -> dict[str, Any]:
    """The backbone's tensors by their Hugging Face names, the LM head always among them."""
    flat: dict[Any, Any] = dict(flatten_dict(untied(params)))
    keys = hf_keys(dataclasses.replace(config, tie_embeddings=False))
    return {keys[path]: flat[path] for path in keys}


def _settings(base: LoadedModel, *, tied: bool) -> dict[str, Any]:
    if base.path.is_dir():
        raw = read_json(base.path / "config.json")
        raw = {key: value for key, value in raw.items() if not key.startswith("medusa_")}
    else:
        raw = hf_config(base.config) | _special_ids(base)
    return raw | {"tie_word_embeddings": tied}


def _special_ids(base: LoadedModel) -> dict[str, Any]:
    ids = {
        f"{role}_token_id": getattr(base.tokenizer, f"{role}_token_id") for role in ("bos", "pad")
    }
    return {key: value for key, value in ids.items() if value is not None} | {
        "eos_token_id": list(base.eos_ids)
    }


def _save_shards(
    folder: Path, tensors: Mapping[str, Any], dtype: np.dtype, shard_bytes: int
) -> None:
    parts = list(_parts(tensors, dtype.itemsize, shard_bytes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        file = "model.safetensors"
        if len(parts) > 1:
            file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        # Gathering takes all processes, in the same order.
        arrays = {name: to_dtype(name, to_host(tensors[name]), dtype) for name in names}
        if jax.process_index() == 0:
            save_tensors(folder / file, arrays)
        weight_map |= dict.fromkeys(names, file)
    if len(parts) > 1 and jax.process_index() == 0:
        total = sum(_size(tensor, dtype.itemsize) for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _parts(tensors: Mapping[str, Any], itemsize: int, shard_bytes: int) -> Iterator[list[str]]:
    """Names of the tensors of each file."""
    names: list[str] = []
    filled = 0
    for name, tensor in tensors.items():
        size = _size(tensor, itemsize)
        if names and filled + size > shard_bytes:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += size
    yield names


def _size(tensor: Any, itemsize: int) -> int:
    return math.prod(tensor.shape) * itemsize


def _save_rest(folder: Path, base: LoadedModel, settings: dict[str, Any]) -> None:
    write_json(folder / "config.json", settings)
    try:
        if not base.path.is_dir():
            write_json(folder / "generation_config.json", _special_ids(base))
            with quiet_transformers():
                base.tokenizer.save_pretrained(folder)
            return
        for name in (*_TOKENIZER_FILES, "generation_config.json"):
            if (base.path / name).is_file():
                shutil.copyfile(base.path / name, folder / name)
        if base.tokenizer.chat_template and not _has_template(folder):
            # `load_tokenizer` gave it for the old folder's name, which this folder does not have.
            (folder / "chat_template.jinja").write_text(base.tokenizer.chat_template, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write the tokenizer to {folder}: {error}") from error


def _has_template(folder: Path) -> bool:
    if any((folder / f"chat_template.{suffix}").is_file() for suffix in ("jinja", "json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))
