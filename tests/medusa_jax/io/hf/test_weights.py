"""Tests medusa_jax/io/hf/weights.py with files that the safetensors library wrote."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf import weights
from medusa_jax.io.hf.config import parse_config
from medusa_jax.io.hf.weights import abstract_params, hf_keys, load_safetensors
from medusa_jax.io.json_file import read_json

TINY = LlamaConfig(
    *(11, 8, 12, 2, 4, 2, 6, 16), qkv_bias=True, o_bias=True, mlp_bias=True, qk_norm=True
)
# Every tensor of TINY, by hand: [N*H, D] = [24, 8], [K*H, D] = [12, 8], [F, D] = [12, 8].
TINY_LAYER = {
    "input_layernorm.weight": (("attn_norm", "scale"), (8,)),
    "post_attention_layernorm.weight": (("mlp_norm", "scale"), (8,)),
    "self_attn.q_proj.weight": (("attn", "q", "weight"), (24, 8)),
    "self_attn.q_proj.bias": (("attn", "q", "bias"), (24,)),
    "self_attn.k_proj.weight": (("attn", "k", "weight"), (12, 8)),
    "self_attn.k_proj.bias": (("attn", "k", "bias"), (12,)),
    "self_attn.v_proj.weight": (("attn", "v", "weight"), (12, 8)),
    "self_attn.v_proj.bias": (("attn", "v", "bias"), (12,)),
    "self_attn.o_proj.weight": (("attn", "o", "weight"), (8, 24)),
    "self_attn.o_proj.bias": (("attn", "o", "bias"), (8,)),
    "self_attn.q_norm.weight": (("attn", "q_norm", "scale"), (6,)),
    "self_attn.k_norm.weight": (("attn", "k_norm", "scale"), (6,)),
    "mlp.gate_proj.weight": (("mlp", "gate", "weight"), (12, 8)),
    "mlp.gate_proj.bias": (("mlp", "gate", "bias"), (12,)),
    "mlp.up_proj.weight": (("mlp", "up", "weight"), (12, 8)),
    "mlp.up_proj.bias": (("mlp", "up", "bias"), (12,)),
    "mlp.down_proj.weight": (("mlp", "down", "weight"), (8, 12)),
    "mlp.down_proj.bias": (("mlp", "down", "bias"), (8,)),
}


def tiny_table() -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    table = {
        "model.embed_tokens.weight": (("embed", "weight"), (11, 8)),
        "model.norm.weight": (("final_norm", "scale"), (8,)),
        "lm_head.weight": (("lm_head", "weight"), (11, 8)),
    }
    for layer in (0, 1):
        for key, (path, shape) in TINY_LAYER.items():
            table[f"model.layers.{layer}.{key}"] = ((f"layers_{layer}", *path), shape)
    return table


def tiny_state(dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    table = tiny_table()
    return {key: rng.normal(size=shape).astype(dtype) for key, (_, shape) in table.items()}


def save_sharded(state: dict[str, np.ndarray], folder: Path) -> None:
    keys = sorted(state)
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        save_file({key: state[key] for key in keys[i::3]}, folder / name)
    weight_map = {key: names[i % 3] for i, key in enumerate(keys)}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def assert_params(params, state: dict[str, np.ndarray], dtype) -> None:
    flat = flatten_dict(params)
    table = tiny_table()
    assert set(flat) == {path for path, _ in table.values()}
    for key, (path, shape) in table.items():
        assert flat[path].dtype == dtype
        assert flat[path].shape == shape
        np.testing.assert_array_equal(np.asarray(flat[path]), state[key].astype(dtype))


def test_shapes_and_keys():
    table, abstract = tiny_table(), flatten_dict(abstract_params(TINY, jnp.float32))
    assert {path: x.shape for path, x in abstract.items()} == dict(table.values())
    assert hf_keys(TINY) == {path: key for key, (path, _) in table.items()}


# Published totals (tied LM head counted once), e.g. from the models' cards.
@pytest.mark.parametrize(
    ("total", "sizes"),
    [
        (6_738_415_616, {"model_type": "llama"}),
        (
            8_030_261_248,
            {
                "model_type": "llama",
                "vocab_size": 128256,
                "intermediate_size": 14336,
                "num_key_value_heads": 8,
            },
        ),
        (7_241_732_096, {"model_type": "mistral"}),
        (
            494_032_768,
            {
                "model_type": "qwen2",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_attention_heads": 14,
                "num_hidden_layers": 24,
                "num_key_value_heads": 2,
                "tie_word_embeddings": True,
            },
        ),
        (
            596_049_920,
            {
                "model_type": "qwen3",
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_attention_heads": 16,
                "num_hidden_layers": 28,
                "num_key_value_heads": 8,
                "tie_word_embeddings": True,
            },
        ),
    ],
)
def test_parameter_counts_of_published_models(total, sizes):
    abstract = abstract_params(parse_config(sizes), jnp.float32)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(abstract)) == total


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("target", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_dtypes_and_shards(tmp_path, stored, target, is_sharded):
    state = tiny_state(stored)
    if is_sharded:
        save_sharded(state, tmp_path)
    else:
        save_file(state, tmp_path / "model.safetensors")
    assert_params(load_safetensors(tmp_path, TINY, target), state, target)


def test_tensors_longer_than_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("medusa_jax.io.tensor_files._PIECE", 7)
    for stored in (np.float16, np.float32):
        state = tiny_state(stored)
        save_file(state, tmp_path / "model.safetensors")
        assert_params(load_safetensors(tmp_path, TINY, jnp.float32), state, np.float32)


@pytest.mark.parametrize("model", ["stories260k", "stories15m"])
def test_real_models(request, tmp_path, model):
    folder = request.getfixturevalue(model)
    config = parse_config(read_json(folder / "config.json"))
    state = load_file(folder / "model.safetensors")
    halves = {key: value.astype(ml_dtypes.bfloat16) for key, value in state.items()}
    save_sharded(halves, tmp_path)
    for source, values in ((folder, state), (tmp_path, halves)):
        flat = flatten_dict(load_safetensors(source, config, jnp.float32))
        assert hf_keys(config).keys() == flat.keys()
        for path, key in hf_keys(config).items():
            np.testing.assert_array_equal(np.asarray(flat[path]), values[key].astype(np.float32))


def test_tied_lm_head_and_foreign_keys_are_ignored(tmp_path):
    config = LlamaConfig(*(11, 8, 12, 2, 4, 2, 6, 16), tie_embeddings=True)
    state = tiny_state()
    state["lm_head.weight"] = state["model.embed_tokens.weight"].copy()
    state["medusa_head.0.0.linear.weight"] = np.zeros((8, 8), np.float32)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)
    state["model.some_counter"] = np.zeros(3, np.int64)
    save_file(state, tmp_path / "model.safetensors")
    params = load_safetensors(tmp_path, config, jnp.float32)
    assert set(params) == {"embed", "layers_0", "layers_1", "final_norm"}
    assert set(params["layers_0"]["attn"]["q"]) == {"weight"}


@pytest.mark.parametrize(("rows", "place"), [(11, 0), (11, 10), (10, 9)])
def test_a_tied_lm_head_that_is_not_the_embedding_is_refused(tmp_path, monkeypatch, rows, place):
    """transformers 5 would not tie it, version 4 would."""
    monkeypatch.setattr(weights, "_ROWS", 4)
    config = LlamaConfig(*(11, 8, 12, 2, 4, 2, 6, 16), tie_embeddings=True)
    state = tiny_state()
    state["lm_head.weight"] = state["model.embed_tokens.weight"][:rows].copy()
    state["lm_head.weight"][place, -1] += 1e-3
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        load_safetensors(tmp_path, config, jnp.float32)


def test_sharding(tmp_path):
    state = tiny_state()
    save_file(state, tmp_path / "model.safetensors")
    mesh = jax.make_mesh((4,), ("x",))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    shardings = jax.tree.map(lambda _: replicated, abstract_params(TINY, jnp.float32))
    shardings["layers_1"]["mlp"]["up"]["weight"] = by_row
    params = load_safetensors(tmp_path, TINY, jnp.float32, shardings=shardings)
    assert_params(params, state, np.float32)
    assert jax.tree.map(lambda array: array.sharding, params) == shardings


def refuse(folder: Path, config: LlamaConfig = TINY) -> str:
    with pytest.raises(UserError) as error:
        load_safetensors(folder, config, jnp.float32)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_tensor(tmp_path):
    state = tiny_state()
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    assert "model.layers.1.mlp.up_proj.weight (12, 8) is missing" in refuse(tmp_path)


def test_missing_lm_head(tmp_path):
    state = tiny_state()
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    message = refuse(tmp_path)
    assert "lm_head.weight" in message
    assert "tie_word_embeddings" in message


def test_wrong_shape(tmp_path):
    state = tiny_state()
    state["model.norm.weight"] = np.zeros(9, np.float32)
    save_file(state, tmp_path / "model.safetensors")
    message = refuse(tmp_path)
    assert "model.norm.weight" in message
    assert "(9,)" in message
    assert "(8,)" in message


def test_unsupported_dtype(tmp_path):
    state = tiny_state()
    state["model.norm.weight"] = np.zeros(8, np.int8)
    save_file(state, tmp_path / "model.safetensors")
    message = refuse(tmp_path)
    assert "model.norm.weight" in message
    assert "I8" in message
