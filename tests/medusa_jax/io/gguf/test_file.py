"""The header reader against the gguf package's own, and against damage."""

import os
import struct

import gguf
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.gguf.file import read_header, read_tensor

RNG = np.random.default_rng(0)


def write(path, kinds=("F32", "F16", "BF16", "Q4_1", "Q8_0", "Q4_K", "Q6_K")):
    """Every value type in the metadata, and a tensor of random bits of every kind."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "ü", "", "日本"])
    writer.add_token_scores([0.5, -1.0, -2.0, -3e9])
    writer.add_array("flags", [True, False])
    for name, value in (("uint8", 255), ("int8", -1), ("uint16", 65535), ("int16", -2)):
        getattr(writer, f"add_{name}")(name, value)
    for name, value in (("int32", -3), ("uint64", 2**63), ("int64", -(2**40)), ("float64", 0.1)):
        getattr(writer, f"add_{name}")(name, value)
    writer.add_bool("bool", True)
    writer.add_custom_alignment(64)
    for name in kinds:
        kind = gguf.GGMLQuantizationType[name]
        values = RNG.normal(size=(3, 512)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", stored(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(values, kind):
    """What the file holds; kinds that gguf cannot quantise get blocks of small bytes."""
    try:
        return gguf.quantize(values, kind)
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        return RNG.integers(0, 60, (len(values), values.shape[1] // block * size), np.uint8)


def test_a_header_is_read_once_and_again_when_its_file_has_changed(tmp_path):
    path = write(tmp_path / "m.gguf", ["F32"])
    first = read_header(path)
    assert read_header(str(path)) is first
    other = path.read_bytes().replace(b"general.architecture", b"general.architectura")
    path.write_bytes(other)
    os.utime(path, ns=(1, 1))
    assert "general.architectura" in read_header(path).metadata


def test_equals_the_gguf_package(tmp_path):
    path = write(tmp_path / "m.gguf")
    ours, theirs = read_header(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == {key: field.contents() for key, field in fields.items()}
    assert len(ours.tensors) == len(theirs.tensors)
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (info.kind, info.offset) == (tensor.tensor_type, tensor.data_offset)
        assert info.num_bytes == tensor.n_bytes
        values = read_tensor(ours, tensor.name, np.dtype(np.float32))
        expected = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        np.testing.assert_array_equal(values, expected.reshape(info.shape))


def test_a_tensor_of_many_pieces(tmp_path):
    """Pieces must join without a gap, whatever the length of a row."""
    values = RNG.normal(size=(700, 416)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    rows = gguf.quantize(values, kind)
    writer.add_tensor("x", rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = read_tensor(read_header(tmp_path / "m.gguf"), "x", np.dtype(np.float32))
    blocks = rows.reshape(-1, 34)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    expected = (scale * blocks[:, 2:].view(np.int8)).reshape(values.shape)
    np.testing.assert_array_equal(ours, expected)
    assert np.abs(ours - values).max() < 0.05


def assert_refused(path, message):
    with pytest.raises(UserError, match=message) as info:
        read_header(path)
    assert len(str(info.value).splitlines()) == 1
    assert str(path) in str(info.value)


def test_refuses_other_files(tmp_path):
    assert_refused(tmp_path / "absent.gguf", "No such file")
    assert_refused(tmp_path, "Is a directory")
    (tmp_path / "text.gguf").write_text("hello, world, this is text")
    assert_refused(tmp_path / "text.gguf", "not a GGUF file")
    (tmp_path / "old.gguf").write_bytes(b"GGUF\1\0\0\0" + bytes(64))
    assert_refused(tmp_path / "old.gguf", "version 1")


@pytest.mark.parametrize("alignment", [0, -64])
def test_refuses_an_alignment_that_is_none(tmp_path, alignment):
    path, key = write(tmp_path / "m.gguf", ["F32"]), b"general.alignment"
    uint32, int32 = (struct.pack("<I", gguf.GGUFValueType[name]) for name in ("UINT32", "INT32"))
    whole, before = path.read_bytes(), key + uint32 + struct.pack("<I", 64)
    assert before in whole
    path.write_bytes(whole.replace(before, key + int32 + struct.pack("<i", alignment)))
    assert_refused(path, rf"is corrupt \(alignment {alignment}\)")


def test_refuses_a_kind_that_cannot_be_dequantised(tmp_path):
    header = read_header(write(tmp_path / "m.gguf", ["Q8_K"]))
    with pytest.raises(UserError, match="stored as Q8_K"):
        read_tensor(header, "Q8_K.weight", np.dtype(np.float32))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    cut = tmp_path / "cut.gguf"
    whole = write(tmp_path / "m.gguf").read_bytes()
    for length in [*range(4, 1200, 3), len(whole) // 2, len(whole) - 64]:
        cut.write_bytes(whole[:length])
        assert_refused(cut, "truncated")


def test_damage_never_shows_as_another_error(tmp_path):
    path, refused = write(tmp_path / "m.gguf"), 0
    whole = path.read_bytes()
    size = min(info.offset for info in read_header(path).tensors.values())
    for _ in range(1000):
        position, byte = int(RNG.integers(size)), int(RNG.integers(256))
        path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
        try:
            read_header(path)
        except UserError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    assert refused > 300
