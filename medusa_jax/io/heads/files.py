"""Where Medusa heads lie on disk: files of their own, or among the tensors of a full model."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.io.heads.formats import MODEL_PREFIXES, is_head_key
from medusa_jax.io.json_file import read_json
from medusa_jax.io.tensor_files import (
    SafetensorsTensor,
    TorchTensor,
    safetensors_header,
    stored_tensors,
    torch_header,
    torch_load,
)

HEADS_FILES = ("medusa_lm_head.safetensors", "medusa_lm_head.pt")
_MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_INTEGERS = {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64)}

StoredTensor = SafetensorsTensor | TorchTensor


def open_heads(path: Path) -> dict[str, StoredTensor]:
    """Finds the tensors of heads without reading their values.

    Args:
      path: a folder, or a `.safetensors`, `.pt` or `.bin` file.

    Returns:
      Name to tensor, only those that belong to heads.

    Raises:
      UserError: nothing there, no heads in it, a damaged file, or torch is needed and missing.
    """
    if path.is_dir():
        tensors = _open_folder(path)
    elif not path.is_file():
        raise UserError(f"no heads found in {path}: there is no such file or folder")
    elif path.suffix == ".safetensors":
        tensors = {tensor.key: tensor for tensor in safetensors_header(path)}
    elif path.suffix in (".pt", ".bin"):
        tensors = {tensor.key: tensor for tensor in torch_header(path)}
    else:
        raise UserError(f"no heads found in {path}: give a folder, a .safetensors or a .pt file")
    heads = {key: tensor for key, tensor in tensors.items() if is_head_key(key)}
    if not heads:
        raise UserError(
            f"no heads found in {path}: none of its {len(tensors)} tensors has the name of a "
            "Medusa head"
        )
    return heads


def heads_in_model(folder: Path) -> bool:
    """Whether a model's own files hold heads (format B); reads names only, and needs no torch.

    Args:
      folder: of the model.

    Raises:
      UserError: `model.safetensors` or an index is damaged.
    """
    return any(key.startswith(MODEL_PREFIXES) for key in _model_keys(folder))


def has_heads(folder: Path) -> bool:
    """Whether a folder holds heads, in any format; reads names only, and needs no torch.

    Raises:
      UserError: `model.safetensors` or an index is damaged.
    """
    is_named = any((folder / name).is_file() for name in HEADS_FILES)
    return is_named or any(is_head_key(key) for key in _model_keys(folder))


def read_integers(tensor: StoredTensor) -> np.ndarray:
    """The values of an integer tensor, as stored.

    Raises:
      UserError: the tensor holds other numbers.
    """
    if isinstance(tensor, TorchTensor):
        values = torch_load(tensor.file)[tensor.key]
        values = values.numpy() if not values.is_floating_point() else np.empty(0)
    else:
        stored = _INTEGERS.get(tensor.dtype_name, np.dtype(np.uint8))
        values = np.fromfile(tensor.file, stored, math.prod(tensor.shape), offset=tensor.begin)
    if values.dtype not in _INTEGERS.values():
        raise UserError(f"tensor {tensor.key} must hold int32 or int64 values")
    return values.reshape(tensor.shape)


def _open_folder(folder: Path) -> Mapping[str, StoredTensor]:
    for name in HEADS_FILES:
        if (folder / name).is_file():
            return open_heads(folder / name)
    if not any((folder / name).is_file() for name in _MODEL_FILES):
        wanted = ", ".join((*HEADS_FILES, _MODEL_FILES[0]))
        raise UserError(f"no heads found in {folder}: it has none of {wanted}")
    return stored_tensors(folder)


def _model_keys(folder: Path) -> Collection[str]:
    single, *_ = _MODEL_FILES
    if (folder / single).is_file():
        return [tensor.key for tensor in safetensors_header(folder / single)]
    for name in _MODEL_FILES:
        if name.endswith(".json") and (folder / name).is_file():
            weight_map = read_json(folder / name).get("weight_map")
            return weight_map if isinstance(weight_map, dict) else ()
    return ()
