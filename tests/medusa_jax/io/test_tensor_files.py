"""Tests medusa_jax/io/tensor_files.py: damaged files, and torch's format."""

import json
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from medusa_jax.errors import UserError
from medusa_jax.io.tensor_files import stored_tensors

STATE = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "b.weight": np.arange(5, dtype=np.float32),
}


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        stored_tensors(folder)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def write_index(folder: Path, index: object, name: str = "model.safetensors") -> None:
    (folder / f"{name}.index.json").write_text(json.dumps(index))


def test_finds_shapes_without_reading(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = stored_tensors(tmp_path)
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        "a.weight": (3, 4),
        "b.weight": (5,),
    }
    np.testing.assert_array_equal(tensors["a.weight"].read(np.float32), STATE["a.weight"])
    half = tensors["a.weight"].read(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(half, STATE["a.weight"].astype(ml_dtypes.bfloat16))


def test_scalars_and_empty_tensors(tmp_path):
    state = {"scalar": np.float32(3.5), "empty": np.zeros((0, 4), np.float16)}
    save_file({key: np.asarray(value) for key, value in state.items()}, tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").rename(tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path)
    assert tensors["scalar"].read(np.float32) == 3.5
    assert tensors["empty"].read(np.float32).shape == (0, 4)


@pytest.mark.parametrize("target", [np.float32, ml_dtypes.bfloat16])
def test_some_rows(tmp_path, target):
    save_file(STATE, tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path)
    for key, rows in (("a.weight", slice(1, 3)), ("b.weight", slice(2, 4)), ("a.weight", slice(2))):
        found = tensors[key].read(target, rows)
        np.testing.assert_array_equal(found, STATE[key][rows].astype(target))


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refuse(tmp_path, str(tmp_path), "model.safetensors")


def test_git_lfs_pointer(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 60772936\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    refuse(tmp_path, "model.safetensors", "git-lfs", "download it again")


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x05" + b"\0" * 7 + b"[1,2]"])
def test_not_safetensors(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    refuse(tmp_path, "not a readable safetensors file")


def test_garbled_header(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[8] = ord("?")
    (tmp_path / "model.safetensors").write_bytes(content)
    refuse(tmp_path, "not a readable safetensors file")


def test_truncated_file(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    refuse(tmp_path, "ends inside b.weight")


def test_header_that_contradicts_itself(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content.replace(b"[3,4]", b"[3,5]"))
    refuse(tmp_path, "a.weight", "48 bytes")


def test_file_that_shrinks_between_header_and_read(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    tensors = stored_tensors(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"ends inside b\.weight"):
        tensors["b.weight"].read(np.float32)


def test_missing_shard(tmp_path):
    write_index(tmp_path, {"weight_map": {"a.weight": "model-00001-of-00001.safetensors"}})
    refuse(tmp_path, "model-00001-of-00001.safetensors is missing")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": 3}, [1]])
def test_bad_index(tmp_path, index):
    write_index(tmp_path, index)
    refuse(tmp_path, "model.safetensors.index.json")


def test_bin_without_torch(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    monkeypatch.setitem(sys.modules, "torch", None)  # what Python does for a missing module
    refuse(tmp_path, "pytorch_model.bin", "safetensors", "pip install torch")


def test_safetensors_are_preferred(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    save_file(STATE, tmp_path / "model.safetensors")
    assert set(stored_tensors(tmp_path)) == set(STATE)


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("target", [np.float32, ml_dtypes.bfloat16])
def test_torch_files(tmp_path, is_sharded, target):
    torch = pytest.importorskip("torch")
    values = torch.arange(24).reshape(4, 6) / 7
    state = {"x": values, "y": values.bfloat16(), "z": values.half().T, "n": torch.arange(3)}
    files = [list(state)[:2], list(state)[2:]] if is_sharded else [list(state)]
    names = ["pytorch_model.bin"]
    if is_sharded:
        names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
        weight_map = {key: names[i] for i, keys in enumerate(files) for key in keys}
        write_index(tmp_path, {"weight_map": weight_map}, "pytorch_model.bin")
    for name, keys in zip(names, files, strict=True):
        torch.save({key: state[key] for key in keys}, tmp_path / name)
    tensors = stored_tensors(tmp_path)
    for key in "xyz":
        assert tensors[key].shape == tuple(state[key].shape)
        expected = state[key].float().numpy().astype(target)
        np.testing.assert_array_equal(tensors[key].read(target), expected)
        np.testing.assert_array_equal(tensors[key].read(target, slice(1, 3)), expected[1:3])
    with pytest.raises(UserError, match="tensor n is stored as"):
        tensors["n"].read(target)


def test_torch_files_from_before_1_6_are_read(tmp_path):
    """They are no zip, and torch cannot map them into memory."""
    torch = pytest.importorskip("torch")
    state = {"x": torch.arange(6.0).reshape(2, 3)}
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    tensor = stored_tensors(tmp_path)["x"]
    np.testing.assert_array_equal(tensor.read(np.float32), state["x"].numpy())
    torch.save(
        {"x": Path("/")}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    refuse(tmp_path, "not a readable torch checkpoint")


def test_torch_file_with_code_in_it_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"x": Path("/")}, tmp_path / "pytorch_model.bin")
    refuse(tmp_path, "not a readable torch checkpoint")


def test_broken_torch_file(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04 and no more")
    refuse(tmp_path, "not a readable torch checkpoint")
