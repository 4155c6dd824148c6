"""Tensors in checkpoint files, read one at a time in bounded host memory.

Weight files are read with plain reads in small pieces: pages of a memory map count as the
process's memory until the map is closed, which would double the peak.
"""

import dataclasses
import functools
import importlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from medusa_jax.errors import UserError, in_short
from medusa_jax.io.buffers import aligned_buffer
from medusa_jax.io.json_file import read_json

_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_PIECE = 1 << 22  # elements converted at a time


@dataclass(frozen=True)
class SafetensorsTensor:
    """One tensor of a `.safetensors` file.

    Attributes:
      file: the file.
      key: name in the file.
      shape: as stored.
      dtype_name: the format's own name of the stored type.
      begin: first byte, counted from the start of the file.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype_name: str
    begin: int

    def read(self, dtype: Any, rows: slice | None = None) -> np.ndarray:
        """The tensor in `dtype`, with no more than one converted piece beside it in memory.

        Args:
          dtype: of the result.
          rows: which part of the first axis to read; default: all.
        """
        if rows is not None:
            return self._rows(rows).read(dtype)
        stored = _SAFETENSORS_DTYPES.get(self.dtype_name)
        if stored is None:
            raise _unsupported_dtype(self.key, self.dtype_name)
        target, flat = aligned_buffer(self.shape, np.dtype(dtype))
        scratch = np.empty(0 if stored == target.dtype else min(_PIECE, flat.size), stored)
        with self.file.open("rb") as file:
            file.seek(self.begin)
            for start in range(0, flat.size, _PIECE):
                part = flat[start : start + _PIECE]
                piece = part if stored == target.dtype else scratch[: part.size]
                if file.readinto(piece.view(np.uint8).data) != piece.nbytes:
                    raise _broken(self.file, f"it ends inside {self.key}")
                if piece is not part:
                    np.copyto(part, piece, casting="unsafe")
        return target

    def _rows(self, rows: slice) -> "SafetensorsTensor":
        start, stop, _ = rows.indices(self.shape[0])
        stored = _SAFETENSORS_DTYPES.get(self.dtype_name)
        row_bytes = math.prod(self.shape[1:]) * (stored.itemsize if stored else 0)
        shape = (stop - start, *self.shape[1:])
        return dataclasses.replace(self, shape=shape, begin=self.begin + start * row_bytes)


@dataclass(frozen=True)
class TorchTensor:
    """One tensor of a torch `.bin` file.

    Attributes:
      file: the file.
      key: name in the file.
      shape: as stored.
    """

    file: Path
    key: str
    shape: tuple[int, ...]

    def read(self, dtype: Any, rows: slice | None = None) -> np.ndarray:
        """The tensor, or some of its rows, in `dtype`; maps the file anew, so no pages pile up."""
        torch = importlib.import_module("torch")
        tensor = torch_load(self.file)[self.key].detach()
        tensor = tensor if rows is None else tensor[rows]
        shape, tensor = tuple(tensor.shape), tensor.reshape(-1)
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            raise _unsupported_dtype(self.key, str(tensor.dtype))
        target, flat = aligned_buffer(shape, np.dtype(dtype))
        for start in range(0, flat.size, _PIECE):
            piece = tensor[start : start + _PIECE]
            if piece.dtype == torch.bfloat16:
                values = piece.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            else:
                values = piece.numpy()
            np.copyto(flat[start : start + _PIECE], values, casting="unsafe")
        return target


def stored_tensors(folder: Path) -> dict[str, SafetensorsTensor] | dict[str, TorchTensor]:
    """Finds the tensors of a Hugging Face model folder without reading their values.

    Looks for `model.safetensors`, its sharded form with an index, and the same in torch's `.bin`
    format, in this order.

    Args:
      folder: holds the files.

    Returns:
      Key to tensor.

    Raises:
      UserError: no weight file, a file that the index names is missing, or a file is damaged;
        only `.bin` files although torch is not installed.
    """
    safetensors = _files(folder, "model.safetensors")
    if safetensors:
        return {tensor.key: tensor for file in safetensors for tensor in safetensors_header(file)}
    torch_files = _files(folder, "pytorch_model.bin")
    if torch_files:
        return {tensor.key: tensor for file in torch_files for tensor in torch_header(file)}
    raise UserError(
        f"{folder} holds no weights: it needs model.safetensors, or "
        "model.safetensors.index.json and its shards"
    )


def _files(folder: Path, single: str) -> list[Path]:
    if (folder / single).is_file():
        return [folder / single]
    index = folder / f"{single}.index.json"
    if not index.is_file():
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no weight_map: download it again")
    files = [folder / str(name) for name in sorted(set(map(str, weight_map.values())))]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing though {index.name} names it: download it")
    return files


def safetensors_header(file: Path) -> list[SafetensorsTensor]:
    """Tensors of one safetensors file, none of them read yet."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            if not 8 < start <= size:
                raise ValueError("no header; a git-lfs pointer?")
            header = json.loads(stream.read(start - 8))
        header.pop("__metadata__", None)
        tensors = []
        for key, entry in header.items():
            begin, end = (start + int(offset) for offset in entry["data_offsets"])
            if end > size:
                raise ValueError(f"it ends inside {key}")
            tensor = SafetensorsTensor(file, key, tuple(entry["shape"]), entry["dtype"], begin)
            stored = _SAFETENSORS_DTYPES.get(tensor.dtype_name)
            if stored is not None and end - begin != math.prod(tensor.shape) * stored.itemsize:
                raise ValueError(f"{key} has {end - begin} bytes for shape {tensor.shape}")
            tensors.append(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(file, error) from error
    return tensors


def torch_header(file: Path) -> list[TorchTensor]:
    """Tensors of one torch file, mapped but not read yet."""
    state = torch_load(file)
    return [
        TorchTensor(file, key, tuple(value.shape))
        for key, value in state.items()
        if hasattr(value, "shape")
    ]


def torch_load(file: Path) -> dict[str, Any]:
    """The state dict of a torch file, memory-mapped if it can be; never runs code from the file."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UserError(
            f"{file} needs torch: convert the model to safetensors, or pip install torch"
        ) from None
    load = functools.partial(torch.load, file, map_location="cpu", weights_only=True)
    try:
        with file.open(
            "rb"
        ) as stream:  # files of torch before 1.6 are no zip, and cannot be mapped
            is_zip = stream.read(2) == b"PK"
        state = load(mmap=is_zip)
    except Exception as error:  # torch raises pickle, zip and runtime errors of many classes
        raise _broken(file, error, "torch checkpoint") from error
    if not isinstance(state, dict):
        raise _broken(file, "no dict of tensors", "torch checkpoint")
    return state


def _broken(file: Path, why: object, kind: str = "safetensors file") -> UserError:
    return UserError(f"{file} is not a readable {kind} ({in_short(why)}): download it again")


def _unsupported_dtype(key: str, name: str) -> UserError:
    return UserError(
        f"tensor {key} is stored as {name}: only float32, float16 and bfloat16 are supported"
    )
