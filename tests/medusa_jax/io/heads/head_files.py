"""Files of heads in every format, written name by name, independently of the code under test."""

import itertools
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from medusa_jax.config import MedusaConfig
from medusa_jax.io.heads.load import load_heads
from tests.medusa_jax.head_params import TOKEN_MAP, D, M, V

BASE_CONFIG = {"hidden_size": D, "vocab_size": V, "num_attention_heads": 2, "medusa_num_heads": 2}


def named_a(config: MedusaConfig, params: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Formats A, B and C, spelled out independently of the code under test."""
    tensors = {}
    for h in range(config.num_heads):
        for layer in range(config.num_layers):
            for part, array in params["blocks"].items():
                if h < len(array):
                    tensors[f"{prefix}{h}.{layer}.linear.{part}"] = array[h, layer]
        if "root" in params:
            tensors[f"{prefix}{h}.root.weight"] = params["root"]["weight"][h]
        for token in range(h + 1) if "branch" in params else ():
            array = params["branch"]["weight"][sum(range(h + 1)) + token]
            tensors[f"{prefix}{h}.branch.{token}.weight"] = array
        if config.own_projection:
            tensors[f"{prefix}{h}.{config.num_layers}.weight"] = params["projection"]["weight"][h]
    for kind, name in itertools.product(
        ("cell", "markov"), ("token", "state", "in", "out", "gate")
    ):
        for part, array in params.get(f"{kind}_{name}", {}).items():
            tensors[f"{prefix}{kind}.{name}.{part}"] = array
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
    "A, markov": MedusaConfig(M, D, V, own_projection=True, conditioning="markov", markov_rank=2),
    "A, twelve heads": MedusaConfig(12, D, V, own_projection=True),
    "C": MedusaConfig(M, D, V),
    "C, two layers, no bias": MedusaConfig(M, D, V, num_layers=2, bias=False),
    # Files list tensors by name: "10.root.weight" comes before "2.root.weight".
    "C, twelve roots": MedusaConfig(12, D, V, conditioning="root"),
    "C, draft": MedusaConfig(M, D, len(TOKEN_MAP), draft_vocab=True),
    "C, twelve branches": MedusaConfig(12, D, V, conditioning="branch"),
    "C, recurrent": MedusaConfig(M, D, V, num_layers=2, conditioning="recurrent"),
    "C, markov, draft": MedusaConfig(
        M, D, len(TOKEN_MAP), draft_vocab=True, conditioning="markov", markov_rank=2
    ),
    "C, gated": MedusaConfig(M, D, V, conditioning="gated_markov", markov_rank=3),
}
