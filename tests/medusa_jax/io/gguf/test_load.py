"""GGUF files are written by the gguf package; their values are read here block by block."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import LlamaConfig
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.gguf.file import read_header
from medusa_jax.io.gguf.load import load_gguf
from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings
from tests.medusa_jax.io.gguf.gguf_files import (
    F16,
    F32,
    Q4_1,
    Q8_0,
    RNG,
    D,
    F,
    H,
    K,
    N,
    V,
    all_shapes,
    finish,
    hugging_face_rows,
    layer_shapes,
    leaf,
    write,
)


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
