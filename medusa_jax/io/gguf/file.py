"""The GGUF container: header, tensor directory and one tensor's values, nothing model-specific.

The format's constants and the dequantisation come from the `gguf` package. Its `GGUFReader` is
not used: it makes several array objects of every token and merge, which for the default model
takes 3 s and 166 MB, more than half the size of the bfloat16 parameters; this header takes 0.1 s.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import functools
import struct
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.io.buffers import aligned_buffer

_SCALARS = {
    gguf.GGUFValueType.UINT8: "<B",
    gguf.GGUFValueType.INT8: "<b",
    gguf.GGUFValueType.UINT16: "<H",
    gguf.GGUFValueType.INT16: "<h",
    gguf.GGUFValueType.UINT32: "<I",
    gguf.GGUFValueType.INT32: "<i",
    gguf.GGUFValueType.FLOAT32: "<f",
    gguf.GGUFValueType.BOOL: "<?",
    gguf.GGUFValueType.UINT64: "<Q",
    gguf.GGUFValueType.INT64: "<q",
    gguf.GGUFValueType.FLOAT64: "<d",
}
# Values dequantised at once, a multiple of every block size: few enough for the CPU's cache (5x
# faster than whole tensors) and for the float32 copy not to count in peak memory.
_CHUNK = 1 << 16


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
      shape: rows first, as numpy has it (the file stores the reverse).
      kind: storage type, quantised or not.
      offset: of the first byte, from the start of the file.
      num_bytes: stored size.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """The header of a GGUF file.

    Attributes:
      path: of the file.
      metadata: key to number, text, truth value or list of these.
      tensors: name to place.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: str | Path) -> GGUFFile:
    """Reads metadata and tensor directory.

    Raises:
      UserError: the file is missing, not a GGUF file of version 2 or 3, truncated or corrupt.
    """
    path = Path(path)
    try:
        stat = path.stat()
        return _read_header(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except EOFError as error:
        raise UserError(f"{path} is truncated: copy or download it again") from error
    except (ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is corrupt ({error}): copy or download it again") from error


@functools.lru_cache(maxsize=1)
def _read_header(path: Path, size: int, _: int) -> GGUFFile:
    """Kept, since parameters, configuration and tokenizer need it; its vocabulary takes 0.1 s."""
    with path.open("rb") as file:
        header = _parse(path, file)
    _check_size(header, size)
    return header


def read_tensor(header: GGUFFile, name: str, dtype: np.dtype) -> np.ndarray:
    """Dequantises one tensor, a piece at a time.

    Args:
      header: of the file.
      name: of the tensor.
      dtype: wanted floating dtype (ml_dtypes' bfloat16 included).

    Returns:
      dtype [shape of the tensor], in memory that JAX's CPU backend adopts without a copy.

    Raises:
      UserError: the file cannot be read, or the tensor's storage type cannot be dequantised.
    """
    info = header.tensors[name]
    tensor, values = aligned_buffer(info.shape, dtype)
    try:
        with header.path.open("rb") as file:
            file.seek(info.offset)
            for start in range(0, len(values), _CHUNK):
                stop = min(start + _CHUNK, len(values))
                values[start:stop] = _dequantize(file, info.kind, stop - start)
    except OSError as error:
        raise UserError(f"cannot read {header.path}: {error.strerror}") from error
    except EOFError as error:
        raise UserError(f"{header.path} is truncated: copy or download it again") from error
    except NotImplementedError as error:
        raise UserError(
            f"{header.path}: {name} is stored as {info.kind.name}, which the gguf package cannot "
            "dequantize: use a file with Q8_0, Q4_K_M or F16 weights"
        ) from error
    return tensor


def _dequantize(file: BinaryIO, kind: gguf.GGMLQuantizationType, count: int) -> np.ndarray:
    """float32 or float16 [count]: the next values of the file."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    # Blocks follow each other without padding, so the rows need not be told apart.
    data = _read(file, count // block * block_bytes)
    stored = {"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8)
    return gguf.dequantize(np.frombuffer(data, stored), kind)


def _parse(path: Path, file: BinaryIO) -> GGUFFile:
    if file.read(4) != b"GGUF":
        raise UserError(f"{path} is not a GGUF file: pass a .gguf file or a Hugging Face folder")
    version = _number(file, "<I")
    if version not in (2, 3):
        raise UserError(
            f"{path} has GGUF version {version} (or is big-endian): convert the model again with "
            "a current llama.cpp"
        )
    num_tensors, num_keys = _number(file, "<Q"), _number(file, "<Q")
    metadata = {}
    for _ in range(num_keys):
        key = _text(file)
        metadata[key] = _value(file, _number(file, "<I"))
    entries = [_tensor_entry(file) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"alignment {alignment}")
    begin = -(-file.tell() // alignment) * alignment
    tensors = {
        name: dataclasses.replace(info, offset=begin + info.offset) for name, info in entries
    }
    return GGUFFile(path, metadata, tensors)


def _tensor_entry(file: BinaryIO) -> tuple[str, TensorInfo]:
    name, rank = _text(file), _number(file, "<I")
    shape = tuple(_number(file, "<Q") for _ in range(rank))[::-1]
    kind = gguf.GGMLQuantizationType(_number(file, "<I"))
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if not name.isprintable():
        raise ValueError("a tensor's name is not text")
    if not shape or shape[-1] % block or 0 in shape:
        raise ValueError(f"tensor {name} of shape {shape} cannot be stored as {kind.name}")
    num_bytes = int(np.prod(shape, dtype=object)) // block * block_bytes
    return name, TensorInfo(shape, kind, _number(file, "<Q"), num_bytes)


def _check_size(header: GGUFFile, size: int) -> None:
    # Before anything is loaded, so that a broken download is seen at once.
    if any(info.offset + info.num_bytes > size for info in header.tensors.values()):
        raise EOFError


def _value(file: BinaryIO, kind: int) -> Any:
    kind = gguf.GGUFValueType(kind)
    if kind == gguf.GGUFValueType.STRING:
        return _text(file)
    if kind != gguf.GGUFValueType.ARRAY:
        return _number(file, _SCALARS[kind])
    item, length = gguf.GGUFValueType(_number(file, "<I")), _number(file, "<Q")
    if item in _SCALARS:
        layout = _SCALARS[item]
        data = _read(file, struct.calcsize(layout) * length)
        return np.frombuffer(data, layout).tolist()
    if item == gguf.GGUFValueType.STRING:
        return [_text(file) for _ in range(length)]
    return [_value(file, item) for _ in range(length)]


def _text(file: BinaryIO) -> str:
    return _read(file, _number(file, "<Q")).decode("utf-8")


def _number(file: BinaryIO, layout: str) -> Any:
    return struct.unpack(layout, _read(file, struct.calcsize(layout)))[0]


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EOFError
    return data
