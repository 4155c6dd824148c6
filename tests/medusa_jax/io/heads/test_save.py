"""Saved heads come back bit by bit, under the names that other software expects."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.load import load_heads
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import MedusaHeads
from tests.medusa_jax.head_params import TOKEN_MAP, D, M, V, assert_same, random_heads

A = MedusaConfig(M, D, V, own_projection=True)
C = MedusaConfig(M, D, V)
C_DRAFT = MedusaConfig(M, D, len(TOKEN_MAP), draft_vocab=True)
VLLM_DRAFT = MedusaConfig(M, D, len(TOKEN_MAP), own_projection=True, draft_vocab=True)


def save(folder, config, params, format, *, vocab_size=V, lm_head=None):
    save_heads(
        folder,
        config,
        params,
        format=format,
        base_model="org/base",
        vocab_size=vocab_size,
        lm_head=lm_head,
    )


def load(folder, dtype=np.float32):
    return load_heads(folder, hidden_size=D, vocab_size=V, dtype=dtype)


SAVED = {
    "A": ("A", A),
    "A, two layers, no bias": ("A", MedusaConfig(M, D, V, 2, False, True)),
    "A, linear": ("A", MedusaConfig(M, D, V, 0, False, True)),
    "A, root": ("A", MedusaConfig(M, D, V, own_projection=True, conditioning="root")),
    "A, gated": (
        "A",
        MedusaConfig(M, D, V, 2, own_projection=True, conditioning="gated_markov", markov_rank=2),
    ),
    "C": ("C", C),
    "C, two layers": ("C", MedusaConfig(M, D, V, 2)),
    "C, draft": ("C", C_DRAFT),
    "C, root": ("C", MedusaConfig(M, D, V, conditioning="root")),
    "C, branch, draft": (
        "C",
        MedusaConfig(M, D, len(TOKEN_MAP), 2, draft_vocab=True, conditioning="branch"),
    ),
    "C, recurrent": ("C", MedusaConfig(M, D, V, 2, conditioning="recurrent")),
    "C, markov": ("C", MedusaConfig(M, D, V, conditioning="markov", markov_rank=2)),
    "C, gated": ("C", MedusaConfig(M, D, V, conditioning="gated_markov", markov_rank=2)),
    "vllm": ("vllm", A),
    "vllm, no bias": ("vllm", MedusaConfig(M, D, V, 1, False, True)),
    "vllm, linear": ("vllm", MedusaConfig(M, D, V, 0, False, True)),
    "vllm, draft": ("vllm", VLLM_DRAFT),
}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("format", "config"), SAVED.values(), ids=SAVED.keys())
def test_save_round_trips(tmp_path, format, config, dtype):
    params = random_heads(config, dtype)
    folder = tmp_path / "new" / "heads"
    save(folder, config, jax.tree.map(jnp.asarray, params), format)
    assert_same(load(folder, dtype), config, params)
    save(folder, config, load(folder, dtype)[1], format)
    assert_same(load(folder, dtype), config, params)
    weights = "model.safetensors" if format == "vllm" else "medusa_lm_head.safetensors"
    assert {file.name for file in folder.iterdir()} == {weights, "config.json"}
    assert (folder / weights).stat().st_mode == (folder / "config.json").stat().st_mode


def test_names_and_settings_of_a(tmp_path):
    params = random_heads(A)
    save(tmp_path, A, params, "A")
    stored = load_file(tmp_path / "medusa_lm_head.safetensors")
    assert len(stored) == 3 * M
    for head in range(M):
        weight, bias = params["blocks"]["weight"][head, 0], params["blocks"]["bias"][head, 0]
        np.testing.assert_array_equal(stored[f"{head}.0.linear.weight"], weight)
        np.testing.assert_array_equal(stored[f"{head}.0.linear.bias"], bias)
        np.testing.assert_array_equal(
            stored[f"{head}.1.weight"], params["projection"]["weight"][head]
        )
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "base_model_name_or_path": "org/base",
        "medusa_num_heads": M,
        "medusa_num_layers": 1,
    }


def test_names_and_settings_of_c(tmp_path):
    save(tmp_path, C_DRAFT, random_heads(C_DRAFT), "C")
    stored = load_file(tmp_path / "medusa_lm_head.safetensors")
    names = {f"{head}.0.linear.{part}" for head in range(M) for part in ("weight", "bias")}
    assert stored.keys() == names | {"token_map"}
    assert stored["token_map"].dtype == np.int32
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["version"] == "2"
    assert (settings["medusa_num_heads"], settings["medusa_num_layers"]) == (M, 1)


def test_names_and_settings_of_vllm(tmp_path):
    save(tmp_path, VLLM_DRAFT, random_heads(VLLM_DRAFT), "vllm")
    stored = load_file(tmp_path / "model.safetensors")
    names = {f"blocks.{head}.layers.0.{part}" for head in range(M) for part in ("weight", "bias")}
    names |= {f"lm_heads.{head}.weight" for head in range(M)}
    assert stored.keys() == names | {"token_map"}
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "base_model_name_or_path": "org/base",
        "model_type": "medusa",
        "architectures": ["MedusaModel"],
        "hidden_size": D,
        "vocab_size": V,
        "truncated_vocab_size": len(TOKEN_MAP),
        "num_heads": M,
        "num_hidden_layers": 1,
        "medusa_fc_bias": True,
        "original_lm_head": False,
    }


@pytest.mark.parametrize(("format", "config"), [("A", C), ("vllm", C), ("vllm", C_DRAFT)])
def test_shared_heads_take_the_lm_head_along(tmp_path, format, config):
    params = random_heads(config, ml_dtypes.bfloat16)
    lm_head = np.random.default_rng(1).normal(size=(V, D)).astype(np.float32)
    save(tmp_path, config, params, format, lm_head=jnp.asarray(lm_head))
    own, loaded = load(tmp_path)
    assert (own.own_projection, own.draft_vocab) == (True, config.draft_vocab)
    rows = lm_head[TOKEN_MAP] if config.draft_vocab else lm_head
    for head in range(M):
        np.testing.assert_array_equal(loaded["projection"]["weight"][head], rows)
    hidden = jax.random.normal(jax.random.key(0), (2, D))
    shared = MedusaHeads(config).apply({"params": params}, hidden, jnp.asarray(rows))
    separate = MedusaHeads(own).apply({"params": loaded}, hidden)
    np.testing.assert_allclose(separate, shared, rtol=1e-5, atol=1e-5)
    if format == "vllm":
        assert json.loads((tmp_path / "config.json").read_text())["original_lm_head"] is True
        assert "lm_heads.1.weight" not in load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("format", "config", "message"),
    [
        ("A", C_DRAFT, "token_map.*save as vllm or C$"),
        ("A", VLLM_DRAFT, "token_map.*save as vllm$"),
        ("C", A, "own projections: save as vllm or A$"),
        ("C", VLLM_DRAFT, "own projections: save as vllm$"),
        ("A", C, "LM head, or save as C$"),
        ("vllm", C_DRAFT, "LM head, or save as C$"),
        ("C", MedusaConfig(M, D, V, num_layers=0), "nothing to save"),
    ],
)
def test_formats_refuse_what_they_cannot_hold(tmp_path, format, config, message):
    folder = tmp_path / "out"
    with pytest.raises(UserError, match=message):
        save(folder, config, random_heads(config), format)
    assert not folder.exists()


def test_saving_spares_models_and_other_heads(tmp_path):
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({"num_attention_heads": 2}))
    with pytest.raises(UserError, match="holds a model"):
        save(tmp_path, C, random_heads(C), "C")
    assert list(tmp_path.iterdir()) == [settings]
    save(tmp_path / "heads", C, random_heads(C), "C")
    with pytest.raises(UserError, match="holds other heads"):
        save(tmp_path / "heads", A, random_heads(A), "vllm")


def test_unwritable_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    with pytest.raises(UserError, match="cannot write heads") as error:
        save(file / "heads", C, random_heads(C), "C")
    assert "\n" not in str(error.value)


def test_failed_write_leaves_the_old_heads(tmp_path):
    save(tmp_path, C, random_heads(C), "C")
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()  # nothing can be renamed onto a folder
    with pytest.raises(UserError, match=r"cannot write .*config\.json"):
        save(tmp_path, C, random_heads(C), "C")
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"medusa_lm_head.safetensors", "config.json"}
    (tmp_path / "config.json").rmdir()
    assert_same(load(tmp_path), C, random_heads(C))


def test_c_for_another_vocabulary(tmp_path):
    save(tmp_path, C, random_heads(C), "C", vocab_size=30)
    with pytest.raises(UserError, match="vocabulary of 30 tokens, the model has 24"):
        load(tmp_path)
