"""GGUF files are written by the gguf package; their values are read here block by block."""

import math
import os
import subprocess
import sys
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.gguf.file import read_header
from medusa_jax.io.gguf.load import load_gguf
from medusa_jax.sharding import make_mesh, param_shardings

V, D, F, N, K, H = 96, 64, 128, 4, 2, 16
RNG = np.random.default_rng(0)
F32, F16, Q8_0, Q4_1 = (gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_1"))


def random_tensor(kind, *shape):
    """(what the file stores, the float32 values it stands for)."""
    if kind in (F32, F16):
        stored = RNG.normal(size=shape).astype(np.float32 if kind == F32 else np.float16)
        return stored, stored.astype(np.float32)
    stored, values = [], []
    for _ in range(math.prod(shape) // 32):
        scale, least = RNG.uniform(0.01, 0.1, 2).astype(np.float16)
        if kind == Q8_0:
            codes = RNG.integers(-127, 128, 32).astype(np.int8)
            stored.append(scale.tobytes() + codes.tobytes())
            values.append(np.float32(scale) * codes)
        else:
            codes = RNG.integers(0, 256, 16).astype(np.uint8)
            stored.append(scale.tobytes() + least.tobytes() + codes.tobytes())
            nibbles = [code & 15 for code in codes] + [code >> 4 for code in codes]
            values.append(np.float32(scale) * np.float32(nibbles) + np.float32(least))
    rows = np.frombuffer(b"".join(stored), np.uint8).reshape(*shape[:-1], -1)
    return rows, np.concatenate(values).astype(np.float32).reshape(shape)


def layer_shapes(layer, bias=False, qk_norm=False, head_dim=H):
    name = f"blk.{layer}."
    shapes = {
        name + "attn_norm.weight": (D,),
        name + "attn_q.weight": (N * head_dim, D),
        name + "attn_k.weight": (K * head_dim, D),
        name + "attn_v.weight": (K * head_dim, D),
        name + "attn_output.weight": (D, N * head_dim),
        name + "ffn_norm.weight": (D,),
        name + "ffn_gate.weight": (F, D),
        name + "ffn_up.weight": (F, D),
        name + "ffn_down.weight": (D, F),
    }
    if bias:
        for leaf, heads in (("q", N), ("k", K), ("v", K)):
            shapes[f"{name}attn_{leaf}.bias"] = (heads * head_dim,)
    if qk_norm:
        shapes |= {f"{name}attn_{leaf}_norm.weight": (head_dim,) for leaf in "qk"}
    return shapes


def all_shapes(tied=True, **layer):
    shapes = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
    for index in range(2):
        shapes |= layer_shapes(index, **layer)
    return shapes if tied else shapes | {"output.weight": (V, D)}


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path, shapes, kind=F32, architecture="llama", edit=lambda writer: None, fixed=()):
    """Writes a small model; returns name -> float32 values in the order of the file."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_block_count(2)
    writer.add_feed_forward_length(F)
    writer.add_head_count(N)
    writer.add_head_count_kv(K)
    writer.add_layer_norm_rms_eps(1e-5)
    edit(writer)
    values = {}
    for name, shape in shapes.items():
        own_kind = kind if len(shape) == 2 else F32
        stored, values[name] = random_tensor(own_kind, *shape)
        if name in dict(fixed):
            stored = values[name] = dict(fixed)[name]
        writer.add_tensor(name, stored, raw_dtype=own_kind)
    finish(writer)
    return values


def hugging_face_rows(stored, num_heads):
    """Row h, half s, i of Hugging Face is row h, pair i, member s of llama.cpp."""
    size = len(stored) // num_heads
    rows = []
    for head in range(num_heads):
        for half in range(2):
            rows += [stored[head * size + 2 * i + half] for i in range(size // 2)]
    return np.stack(rows)


def leaf(params, name):
    for key in name.split("."):
        params = params[key]
    return np.asarray(params)


@pytest.mark.parametrize("kind", [F32, F16, Q8_0, Q4_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_llama_values(tmp_path, kind, dtype):
    values = write(tmp_path / "m.gguf", all_shapes(), kind)
    config, params, eos = load_gguf(tmp_path / "m.gguf", dtype)
    assert config == LlamaConfig(V, D, F, 2, N, K, H, 128, tie_embeddings=True)
    assert eos == ()
    expected = {
        "embed.weight": values["token_embd.weight"],
        "final_norm.scale": values["output_norm.weight"],
    }
    for layer in range(2):
        ours, theirs = f"layers_{layer}.", f"blk.{layer}."
        query, key = (values[f"{theirs}attn_{name}.weight"] for name in "qk")
        expected |= {
            ours + "attn_norm.scale": values[theirs + "attn_norm.weight"],
            ours + "mlp_norm.scale": values[theirs + "ffn_norm.weight"],
            ours + "attn.q.weight": hugging_face_rows(query, N),
            ours + "attn.k.weight": hugging_face_rows(key, K),
            ours + "attn.v.weight": values[theirs + "attn_v.weight"],
            ours + "attn.o.weight": values[theirs + "attn_output.weight"],
            ours + "mlp.gate.weight": values[theirs + "ffn_gate.weight"],
            ours + "mlp.up.weight": values[theirs + "ffn_up.weight"],
            ours + "mlp.down.weight": values[theirs + "ffn_down.weight"],
        }
    assert len(jax.tree.leaves(params)) == len(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(leaf(params, name), value.astype(jnp.dtype(dtype)), name)


def test_on_a_mesh(tmp_path):
    write(tmp_path / "m.gguf", all_shapes())
    mesh = make_mesh(1, 2, 4)
    params = load_gguf(tmp_path / "m.gguf", "float32", mesh)[1]
    shardings = jax.tree.map(lambda array: array.sharding, params)
    assert shardings == param_shardings(mesh, params)
    assert not params["layers_1"]["mlp"]["up"]["weight"].is_fully_replicated
    one_device = load_gguf(tmp_path / "m.gguf", "float32")[1]
    jax.tree.map(np.testing.assert_array_equal, params, one_device)


def test_attention_scores_equal_those_of_the_stored_order(tmp_path):
    """The stored rows rotate as neighbouring pairs, the loaded ones as halves."""
    values = write(tmp_path / "m.gguf", all_shapes())
    _, params, _ = load_gguf(tmp_path / "m.gguf", "float32")
    x = RNG.normal(size=(5, D))
    angle = np.arange(5)[:, None] * 10000.0 ** -(np.arange(0, H, 2) / H)
    turn = np.exp(1j * angle)[:, None, :]

    def scores(q, k):
        return np.einsum("tnh,snh->nts", q, k.repeat(N // K, axis=1).conj()).real

    def pairs(weight):
        heads = (x @ weight.T).reshape(5, -1, H)
        return (heads[..., ::2] + 1j * heads[..., 1::2]) * turn

    def halves(weight):
        heads = (x @ weight.T).reshape(5, -1, H)
        return (heads[..., : H // 2] + 1j * heads[..., H // 2 :]) * turn

    theirs = scores(*(pairs(values[f"blk.0.attn_{name}.weight"]) for name in "qk"))
    ours = scores(*(halves(leaf(params, f"layers_0.attn.{name}.weight")) for name in "qk"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_biases_of_llama_move_with_their_rows(tmp_path):
    values = write(tmp_path / "m.gguf", all_shapes(bias=True))
    config, params, _ = load_gguf(tmp_path / "m.gguf", "float32")
    assert config.qkv_bias
    for name, heads in (("q", N), ("k", K)):
        expected = hugging_face_rows(values[f"blk.1.attn_{name}.bias"], heads)
        np.testing.assert_array_equal(leaf(params, f"layers_1.attn.{name}.bias"), expected)


def test_qwen2_keeps_its_rows(tmp_path):
    values = write(tmp_path / "m.gguf", all_shapes(tied=False, bias=True), Q8_0, "qwen2")
    config, params, _ = load_gguf(tmp_path / "m.gguf", "float32")
    assert config == LlamaConfig(V, D, F, 2, N, K, H, 128, qkv_bias=True)
    np.testing.assert_array_equal(leaf(params, "lm_head.weight"), values["output.weight"])
    for name in "qkv":
        for part in ("weight", "bias"):
            ours = leaf(params, f"layers_1.attn.{name}.{part}")
            np.testing.assert_array_equal(ours, values[f"blk.1.attn_{name}.{part}"])


def test_qwen3_has_norms_and_a_head_size_of_its_own(tmp_path):
    def edit(writer):
        writer.add_key_length(32)
        writer.add_value_length(32)

    shapes = all_shapes(qk_norm=True, head_dim=32)
    values = write(tmp_path / "m.gguf", shapes, F32, "qwen3", edit)
    config, params, _ = load_gguf(tmp_path / "m.gguf", "float32")
    expected = LlamaConfig(V, D, F, 2, N, K, 32, 128, tie_embeddings=True, qk_norm=True)
    assert config == expected
    for name in ("q_norm", "k_norm"):
        ours = leaf(params, f"layers_0.attn.{name}.scale")
        np.testing.assert_array_equal(ours, values[f"blk.0.attn_{name}.weight"])


def config_with(tmp_path, edit, shapes=None, fixed=()):
    write(tmp_path / "m.gguf", shapes or all_shapes(), edit=edit, fixed=fixed)
    return load_gguf(tmp_path / "m.gguf", "float32")[0]


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


PEAK = """
import sys, jax
from medusa_jax.io.gguf.load import load_gguf
jax.block_until_ready(jax.numpy.zeros(1))
def kib(key):
    return int(open("/proc/self/status").read().split(key + ":")[1].split()[0])
before = kib("VmRSS")
_, params, _ = load_gguf(sys.argv[1], "bfloat16")
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(1024 * (kib("VmHWM") - before) / size, size)
"""


def peak_ratio(path):
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    command = [sys.executable, "-c", PEAK, str(path)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    ratio, size = output.stdout.split()
    return float(ratio), int(size)


def test_peak_memory_of_a_large_file(tmp_path):
    """Keeping the 44 MB file mapped, or one whole tensor in float32, would exceed the limit."""
    path, width = tmp_path / "m.gguf", 1024
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, shape in layer_shapes(0).items() | {("token_embd.weight", (V, D))}:
        rows = 1 << 15 if name == "token_embd.weight" else width
        if len(shape) == 2:
            empty = np.zeros((rows, width // 32 * 34), np.uint8)
            writer.add_tensor(name, empty, raw_dtype=Q8_0)
        else:
            writer.add_tensor(name, np.ones(width, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    finish(writer)
    ratio, size = peak_ratio(path)
    assert size == 2 * (((1 << 15) + 7 * width) * width + 3 * width)
    assert ratio < 1.3


def test_default_model():
    path = cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip("the default model has not been downloaded yet")
    ratio, size = peak_ratio(path)
    assert size == 2 * 134_515_008
    assert ratio < 1.3
    assert read_header(path).metadata["tokenizer.ggml.pre"] == "smollm"
