"""GGUF files that are incomplete, damaged or not supported get one line each."""

import gguf
import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.gguf.load import load_gguf
from tests.medusa_jax.io.gguf.gguf_files import (
    Q4_1,
    D,
    all_shapes,
    write,
)


def assert_refused(path, message):
    with pytest.raises(UserError, match=message) as info:
        load_gguf(path, "float32")
    assert len(str(info.value).splitlines()) == 1
    assert str(path) in str(info.value)


def without(name):
    return {key: shape for key, shape in all_shapes().items() if key != name}


@pytest.mark.parametrize(
    ("shapes", "edit", "message"),
    [
        (without("token_embd.weight"), None, "token_embd.weight"),
        (without("blk.1.attn_v.weight"), None, r"lacks the tensor blk\.1\.attn_v\.weight"),
        (all_shapes() | {"output_norm.weight": (D + 1,)}, None, r"\(65,\) instead of \(64,\)"),
        (all_shapes() | {"blk.0.ffn_gate_inp.weight": (8, D)}, None, "ffn_gate_inp"),
        (all_shapes(), lambda w: w.add_expert_count(8), "expert_count"),
        (all_shapes(), lambda w: w.add_uint16("split.count", 2), "llama-gguf-split --merge"),
        (all_shapes(), lambda w: w.add_rope_dimension_count(8), "rope.dimension_count"),
        (
            all_shapes(),
            lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
            "'yarn': only none, linear and llama3",
        ),
    ],
)
def test_refuses_what_is_incomplete_or_not_supported(tmp_path, shapes, edit, message):
    path = tmp_path / "m.gguf"
    write(path, shapes, edit=edit or (lambda writer: None))
    assert_refused(path, message)


def test_refuses_another_architecture(tmp_path):
    write(tmp_path / "m.gguf", all_shapes(), architecture="mamba")
    assert_refused(tmp_path / "m.gguf", "'mamba': only llama, qwen2, qwen3")


def test_refuses_missing_and_mistyped_metadata(tmp_path):
    path = tmp_path / "m.gguf"
    write(path, all_shapes())
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"llama.block_count", b"llama.blocK_count"))
    assert_refused(path, "lacks the metadata block_count")


def test_refuses_a_damaged_file(tmp_path):
    path = tmp_path / "m.gguf"
    assert_refused(path, "No such file")
    write(path, all_shapes(), Q4_1)
    path.write_bytes(path.read_bytes()[:-64])
    assert_refused(path, "truncated")
