"""Heads that are damaged, incomplete or of another model get one line each."""

import contextlib
import json
import sys

import ml_dtypes
import numpy as np
import pytest

from medusa_jax.errors import UserError
from tests.medusa_jax.head_params import TOKEN_MAP, D, V, random_heads
from tests.medusa_jax.io.heads.head_files import (
    HEADS,
    load,
    named_a,
    write,
    write_torch,
)

A = named_a(HEADS["A"], random_heads(HEADS["A"]))
C_DRAFT = named_a(HEADS["C, draft"], random_heads(HEADS["C, draft"]))
MARKOV = named_a(HEADS["A, markov"], random_heads(HEADS["A, markov"]))
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
    "markov of no axes": (
        MARKOV | {next(name for name in MARKOV if "markov" in name): np.zeros((), np.float32)},
        "markov",
    ),
    "token_map alone": ({"token_map": TOKEN_MAP}, "token_map and nothing else"),
    "no heads": ({"model.norm.weight": np.zeros(D)}, "no heads found"),
}


@pytest.mark.parametrize(("tensors", "message"), BAD.values(), ids=BAD.keys())
def test_bad_heads_get_one_line(tmp_path, tensors, message):
    write(tmp_path / "medusa_lm_head.safetensors", tensors)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_torch_token_map_of_floats(tmp_path):
    pytest.importorskip("torch")
    tensors = C_DRAFT | {"token_map": TOKEN_MAP.astype(ml_dtypes.bfloat16)}
    write_torch(tmp_path / "medusa_lm_head.pt", tensors)
    with pytest.raises(UserError, match="must hold int32 or int64"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("stated", "message"), [(None, None), ("24", "of '24' tokens"), (24, None)]
)
def test_the_vocabulary_that_a_config_states(tmp_path, stated, message):
    shared = named_a(HEADS["C"], random_heads(HEADS["C"]))
    write(tmp_path / "medusa_lm_head.safetensors", shared)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": stated}))
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        load(tmp_path)


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
