"""Head checkpoints of every format, written name by name here and read by the package."""

import json
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.load import find_heads, load_heads
from medusa_jax.sharding import make_mesh, param_shardings
from tests.medusa_jax.head_params import TOKEN_MAP, D, M, V, assert_same, random_heads

BASE_CONFIG = {"hidden_size": D, "vocab_size": V, "num_attention_heads": 2, "medusa_num_heads": 2}


def named_a(config: MedusaConfig, params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Formats A, B and C, spelled out independently of the code under test."""
    tensors = {}
    for h in range(config.num_heads):
        for layer in range(config.num_layers):
            for part, array in params["blocks"].items():
                tensors[f"{prefix}{h}.{layer}.linear.{part}"] = array[h, layer]
        if config.root_conditioned:
            tensors[f"{prefix}{h}.root.weight"] = params["root"]["weight"][h]
        if config.own_projection:
            tensors[f"{prefix}{h}.{config.num_layers}.weight"] = params["projection"]["weight"][h]
    if config.draft_vocab:
        tensors["token_map"] = params["token_map"]
    return tensors


def named_vllm(config: MedusaConfig, params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    tensors = {}
    for h in range(config.num_heads):
        for layer in range(config.num_layers):
            for part, array in params["blocks"].items():
                tensors[f"{prefix}blocks.{h}.layers.{layer}.{part}"] = array[h, layer]
        tensors[f"{prefix}lm_heads.{h}.weight"] = params["projection"]["weight"][h]
    return tensors


def write(file: Path, tensors: dict[str, np.ndarray], config: dict | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, file)
    if config is not None:
        (file.parent / "config.json").write_text(json.dumps(config))
    return file


def write_torch(file: Path, tensors: dict[str, np.ndarray]) -> Path:
    torch = pytest.importorskip("torch")
    state = {}
    for name, array in tensors.items():
        if array.dtype == ml_dtypes.bfloat16:
            bits = torch.from_numpy(np.ascontiguousarray(array).view(np.int16))
            state[name] = bits.view(torch.bfloat16)
        else:
            state[name] = torch.from_numpy(np.ascontiguousarray(array))
    torch.save(state, file)
    return file


def load(path, dtype=np.float32, hidden_size=D, vocab_size=V, mesh=None):
    return load_heads(path, hidden_size=hidden_size, vocab_size=vocab_size, dtype=dtype, mesh=mesh)


HEADS = {
    "A": MedusaConfig(M, D, V, own_projection=True),
    "A, two layers": MedusaConfig(M, D, V, num_layers=2, own_projection=True),
    "A, no bias": MedusaConfig(M, D, V, bias=False, own_projection=True),
    "A, linear": MedusaConfig(M, D, V, num_layers=0, bias=False, own_projection=True),
    "A, twelve heads": MedusaConfig(12, D, V, own_projection=True),
    "C": MedusaConfig(M, D, V),
    "C, two layers, no bias": MedusaConfig(M, D, V, num_layers=2, bias=False),
    # Files list tensors by name: "10.root.weight" comes before "2.root.weight".
    "C, twelve roots": MedusaConfig(12, D, V, root_conditioned=True),
    "C, draft": MedusaConfig(M, D, len(TOKEN_MAP), draft_vocab=True),
}


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


A = named_a(HEADS["A"], random_heads(HEADS["A"]))
C_DRAFT = named_a(HEADS["C, draft"], random_heads(HEADS["C, draft"]))
BAD = {
    "other hidden size": (
        {"0.0.linear.weight": np.zeros((16, 16), np.float32)},
        "hidden size 16, the model has 8",
    ),
    "other hidden size, linear": (
        {"0.0.weight": np.zeros((V, 16), np.float32)},
        "hidden size 16, the model has 8",
    ),
    "other vocabulary": (
        A | {"1.1.weight": np.zeros((30, D), np.float32)},
        "vocabulary of 30 tokens, the model has 24",
    ),
    "wrong shape": (A | {"1.0.linear.weight": np.zeros((4, D), np.float32)}, r"shape \[4, 8\]"),
    "missing block": (
        {k: v for k, v in A.items() if k != "2.0.linear.weight"},
        "weight of block 0 of head 2 is missing",
    ),
    "missing projection": (
        {k: v for k, v in A.items() if k != "1.1.weight"},
        "projection of head 1 is missing",
    ),
    "gap": (
        {k: v for k, v in A.items() if not k.startswith("1.")},
        "head 1 of heads 0 to 2 is missing",
    ),
    "unequal depth": (
        A | {"2.1.linear.weight": np.zeros((D, D), np.float32)},
        "weight of block 1 of head 0 is missing",
    ),
    "unknown name": (A | {"0.0.conv.weight": np.zeros(1, np.float32)}, "tensor 0.0.conv.weight"),
    "quantized": (
        A | {"0.0.linear.weight": np.zeros((D, D), np.int8)},
        "0.0.linear.weight is stored as I8",
    ),
    "token_map out of range": (C_DRAFT | {"token_map": TOKEN_MAP + 1}, "beyond the model's 24"),
    "token_map negative": (C_DRAFT | {"token_map": TOKEN_MAP - 1}, "beyond the model's 24"),
    "token_map of floats": (C_DRAFT | {"token_map": TOKEN_MAP * 1.0}, "must hold int32 or int64"),
    "token_map not a list": (C_DRAFT | {"token_map": TOKEN_MAP[None]}, r"shape \[1, 5\]"),
    "token_map alone": ({"token_map": TOKEN_MAP}, "token_map and nothing else"),
    "no heads": ({"model.norm.weight": np.zeros(D)}, "no heads found"),
}


@pytest.mark.parametrize(("tensors", "message"), BAD.values(), ids=BAD.keys())
def test_bad_heads_get_one_line(tmp_path, tensors, message):
    write(tmp_path / "medusa_lm_head.safetensors", tensors)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match=r"no heads found in .*none of medusa_lm_head"):
        load(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        load(tmp_path / "absent")
    other = tmp_path / "heads.txt"
    other.write_text("no heads")
    with pytest.raises(UserError, match=r"give a folder, a \.safetensors or a \.pt file"):
        load(other)


@pytest.mark.parametrize("kept", [4, 200, -1])
def test_truncated_safetensors(tmp_path, kept):
    file = write(tmp_path / "medusa_lm_head.safetensors", A)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="download it again") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_broken_torch_file(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "medusa_lm_head.pt").write_bytes(b"\x80\x02junk")
    with pytest.raises(UserError, match="download it again") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_torch_file_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "medusa_lm_head.pt").write_bytes(b"anything")
    with pytest.raises(UserError, match="torch"):
        load(tmp_path)
