"""The configuration that a GGUF file's metadata stands for."""

import functools
import math
from pathlib import Path

import gguf
import numpy as np
import pytest

from medusa_jax.config import RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.gguf.config import read_config
from medusa_jax.io.gguf.file import GGUFFile
from medusa_jax.io.gguf.load import load_gguf
from tests.medusa_jax.io.gguf.gguf_files import (
    H,
    all_shapes,
    write,
)


def config_with(tmp_path, edit, shapes=None, fixed=()):
    write(tmp_path / "m.gguf", shapes or all_shapes(), edit=edit, fixed=fixed)
    return load_gguf(tmp_path / "m.gguf", "float32")[0]


def test_a_factor_without_a_kind_is_linear(tmp_path):
    """As llama.cpp takes it; "none" stays none."""

    def changes(writer, kind=None):
        writer.add_rope_scaling_factor(4.0)
        if kind is not None:
            writer.add_rope_scaling_type(kind)

    rope = config_with(tmp_path, changes).rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)
    none = functools.partial(changes, kind=gguf.RopeScalingType.NONE)
    assert config_with(tmp_path, none).rope.kind == "default"


def test_rope_base_linear_scaling_and_window(tmp_path):
    def edit(writer):
        writer.add_rope_freq_base(5e5)
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_sliding_window(32)

    config = config_with(tmp_path, edit)
    assert config.rope == RopeConfig(theta=5e5, kind="linear", factor=4.0)
    assert config.windows == (32, 32)


def llama3_divisors(factor, original=8192, low=1.0, high=4.0, theta=5e5):
    """What llama.cpp's converter writes, from the published definition by wavelengths."""
    divisors = []
    for i in range(0, H, 2):
        wavelength = 2 * math.pi * theta ** (i / H)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(divisors)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_is_recognised(tmp_path, factor):
    shapes = all_shapes() | {"rope_freqs.weight": (H // 2,)}
    fixed = {"rope_freqs.weight": llama3_divisors(factor)}
    config = config_with(tmp_path, lambda writer: writer.add_rope_freq_base(5e5), shapes, fixed)
    assert config.rope == RopeConfig(5e5, "llama3", factor, 1.0, 4.0, 8192)


def test_unknown_rope_divisors_are_refused(tmp_path):
    shapes = all_shapes() | {"rope_freqs.weight": (H // 2,)}
    fixed = {"rope_freqs.weight": llama3_divisors(8.0, original=4096)}
    with pytest.raises(UserError, match="rotary embedding"):
        config_with(tmp_path, lambda writer: writer.add_rope_freq_base(5e5), shapes, fixed)


def test_every_id_that_ends_a_reply(tmp_path):
    def edit(writer):
        writer.add_eos_token_id(7)
        writer.add_eot_token_id(9)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 7)

    write(tmp_path / "m.gguf", all_shapes(), edit=edit)
    assert load_gguf(tmp_path / "m.gguf", "float32")[2] == (7, 9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("context_length", math.nan),
        ("block_count", math.inf),
        ("rope.freq_base", 0.0),
        ("rope.freq_base", -1.0),
        ("attention.sliding_window", -1.0),
        ("rope.scaling.factor", 0.0),
        ("attention.head_count", [[4], [5]]),
    ],
)
def test_numbers_that_no_model_has_are_refused(key, value):
    metadata = {"general.architecture": "llama", f"llama.{key}": value}
    for name, usual in {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.scaling.type": "linear",
    }.items():
        metadata.setdefault(f"llama.{name}", usual)
    header = GGUFFile(Path("m.gguf"), metadata, {})
    with pytest.raises(UserError, match=key):
        read_config(header)
