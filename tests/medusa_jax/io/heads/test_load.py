"""Head checkpoints of every format, written name by name here and read by the package."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.io.heads.load import find_heads, heads_config, load_heads
from medusa_jax.io.load import SHIPPED_HEADS
from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings
from tests.medusa_jax.head_params import TOKEN_MAP, D, M, V, assert_same, random_heads
from tests.medusa_jax.io.heads.head_files import (
    BASE_CONFIG,
    HEADS,
    load,
    named_a,
    named_vllm,
    write,
    write_torch,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS.keys())
def test_a_and_c_by_folder_and_by_file(tmp_path, config, dtype):
    params = random_heads(config, dtype)
    wrong = {"medusa_num_heads": 2, "medusa_num_layers": 4}
    file = write(tmp_path / "medusa_lm_head.safetensors", named_a(config, params), wrong)
    assert_same(load(tmp_path, dtype), config, params)
    assert_same(load(str(file), dtype), config, params)


@pytest.mark.parametrize("config", HEADS.values(), ids=HEADS.keys())
def test_on_a_mesh(tmp_path, config):
    params = random_heads(config)
    write(tmp_path / "medusa_lm_head.safetensors", named_a(config, params))
    mesh = make_mesh(2, 2, 2)
    loaded = load(tmp_path, mesh=mesh)
    assert_same(loaded, config, params)
    shardings = jax.tree.map(lambda array: array.sharding, loaded[1])
    assert shardings == param_shardings(mesh, params)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_torch_file(tmp_path, dtype):
    config = HEADS["A, two layers"]
    params = random_heads(config, dtype)
    file = write_torch(tmp_path / "medusa_lm_head.pt", named_a(config, params))
    assert_same(load(tmp_path, dtype), config, params)
    assert_same(load(file, dtype), config, params)
    assert find_heads(tmp_path) == file


def test_torch_file_with_token_map(tmp_path):
    config = HEADS["C, draft"]
    tensors = named_a(config, random_heads(config))
    tensors["token_map"] = tensors["token_map"].astype(np.int64)
    write_torch(tmp_path / "medusa_lm_head.pt", tensors)
    assert_same(load(tmp_path), config, random_heads(config))


def test_conversion_rounds_once(tmp_path):
    config = HEADS["A"]
    params = random_heads(config)
    write(tmp_path / "medusa_lm_head.safetensors", named_a(config, params))
    expected = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), params)
    assert_same(load(tmp_path, jnp.bfloat16), config, expected)


@pytest.mark.parametrize("prefix", ["medusa_head.", "medusa_heads."])
def test_b_in_a_sharded_model(tmp_path, prefix):
    config = HEADS["A"]
    params = random_heads(config)
    heads = named_a(config, params, prefix)
    first = dict(list(heads.items())[:4])
    shards = {
        "model-1.safetensors": {"lm_head.weight": np.zeros((V, D)), **first},
        "model-2.safetensors": {"model.norm.weight": np.zeros(D)},
        "model-3.safetensors": {k: v for k, v in heads.items() if k not in first},
    }
    for name, tensors in shards.items():
        write(tmp_path / name, tensors, BASE_CONFIG)
    weight_map = {key: name for name, tensors in shards.items() for key in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert find_heads(tmp_path) == tmp_path
    assert_same(load(tmp_path), config, params)


def test_b_in_one_file_and_in_torch_shards(tmp_path):
    config = HEADS["A, no bias"]
    params = random_heads(config)
    tensors = {"lm_head.weight": np.zeros((V, D)), **named_a(config, params, "medusa_head.")}
    file = write(tmp_path / "one" / "model.safetensors", tensors, BASE_CONFIG)
    assert find_heads(file.parent) == file.parent
    assert_same(load(file.parent), config, params)
    write_torch(tmp_path / "pytorch_model-1.bin", tensors)
    index = {"weight_map": dict.fromkeys(tensors, "pytorch_model-1.bin")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert find_heads(tmp_path) == tmp_path
    assert_same(load(tmp_path), config, params)


def test_find_heads_prefers_files_of_their_own_and_finds_nothing_elsewhere(tmp_path):
    assert find_heads(tmp_path) is None
    model = write(tmp_path / "model.safetensors", {"lm_head.weight": np.zeros((V, D))}, BASE_CONFIG)
    assert find_heads(tmp_path) is None
    assert find_heads(model) is None
    params = random_heads(HEADS["C"])
    file = write(tmp_path / "medusa_lm_head.safetensors", named_a(HEADS["C"], params))
    assert find_heads(tmp_path) == file
    assert_same(load(tmp_path), HEADS["C"], params)


@pytest.mark.parametrize("prefix", ["", "medusa_heads."])
@pytest.mark.parametrize("name", ["A", "A, two layers", "A, no bias", "A, linear"])
def test_vllm(tmp_path, name, prefix):
    config, params = HEADS[name], random_heads(HEADS[name])
    # vLLM drops biases without medusa_fc_bias; the tensors decide here.
    settings = {"model_type": "medusa", "num_heads": 2, "medusa_fc_bias": False}
    write(tmp_path / "model.safetensors", named_vllm(config, params, prefix), settings)
    assert_same(load(tmp_path), config, params)


@pytest.mark.parametrize("rows", ["truncated", "all"])
def test_vllm_token_map(tmp_path, rows):
    full = random_heads(HEADS["A"])
    params = full | {"projection": {"weight": full["projection"]["weight"][:, TOKEN_MAP]}}
    tensors = named_vllm(HEADS["A"], params if rows == "truncated" else full)
    tensors["token_map"] = TOKEN_MAP.astype(np.int64)
    write(tmp_path / "model.safetensors", tensors, {"truncated_vocab_size": len(TOKEN_MAP)})
    config = MedusaConfig(M, D, len(TOKEN_MAP), own_projection=True, draft_vocab=True)
    assert_same(load(tmp_path), config, params | {"token_map": TOKEN_MAP})


@pytest.mark.parametrize("present", [1, M])
def test_vllm_original_lm_head_is_one_projection_for_all(tmp_path, present):
    config, params = HEADS["A"], random_heads(HEADS["A"])
    tensors = named_vllm(config, params)
    for head in range(present, M):
        del tensors[f"lm_heads.{head}.weight"]
    write(tmp_path / "model.safetensors", tensors, {"original_lm_head": True})
    first = np.stack([params["projection"]["weight"][0]] * M)
    assert_same(load(tmp_path), config, params | {"projection": {"weight": first}})


def test_a_missing_bias_is_zero(tmp_path):
    config, params = HEADS["A"], random_heads(HEADS["A"])
    tensors = named_a(config, params)
    del tensors["1.0.linear.bias"]
    write(tmp_path / "medusa_lm_head.safetensors", tensors)
    params["blocks"]["bias"][1] = 0
    assert_same(load(tmp_path), config, params)


def test_the_configuration_alone_is_that_of_the_shipped_heads():
    """Which the acceptance and the tree beside them belong to (docs/results.md)."""
    config = heads_config(SHIPPED_HEADS, hidden_size=576, vocab_size=49152)
    sizes = config.num_heads, config.num_layers, config.vocab_size
    assert (*sizes, config.conditioning, config.own_projection) == (4, 4, 8192, "recurrent", False)
    loaded, _ = load_heads(SHIPPED_HEADS, hidden_size=576, vocab_size=49152, dtype="float32")
    assert loaded == config


def test_loading_holds_one_tensor_beside_the_result(tmp_path):
    vocab, hidden = 4096, 64
    tensors = {}
    for head in range(4):
        tensors[f"{head}.0.linear.weight"] = np.ones((hidden, hidden), np.float32)
        tensors[f"{head}.1.weight"] = np.full((vocab, hidden), head, np.float32)
    write(tmp_path / "medusa_lm_head.safetensors", tensors)
    load(tmp_path, np.float16, hidden, vocab)  # imports whatever is imported late
    tracemalloc.start()
    try:
        _, params = load(tmp_path, np.float16, hidden, vocab)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    # One projection in the target dtype, and its piece in the file's.
    assert peak < size + 3.5 * vocab * hidden * 2
