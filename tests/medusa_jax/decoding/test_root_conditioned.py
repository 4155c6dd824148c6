"""Root-conditioned heads: their equation, their place in the decode loop, and their file."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax import UserError
from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.heads.load import load_heads
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import MedusaHeads, init_heads
from tests.medusa_jax.tiny import last_hidden, next_token, tiny_lm

CONFIG = MedusaConfig(num_heads=2, hidden_size=16, vocab_size=24, conditioning="root")


@pytest.fixture(scope="module")
def lm():
    base = tiny_lm("chain:0")
    params = init_heads(CONFIG, base.params["lm_head"]["weight"], jnp.float32)
    rng = np.random.default_rng(0)
    for name in ("blocks", "root"):
        shape = params[name]["weight"].shape
        params[name]["weight"] = jnp.asarray(rng.normal(size=shape) * 0.3, jnp.float32)
    return dataclasses.replace(base, heads_config=CONFIG, heads_params=params).with_tree("chain:2")


def proposals(lm, hidden, root):
    """The equation in numpy: SiLU(W h + U e + b) + h, e the root's embedding of unit size."""
    e = np.asarray(lm.params["embed"]["weight"])[root]
    e = e / np.sqrt(np.mean(e**2))
    blocks = {k: np.asarray(v) for k, v in lm.heads_params["blocks"].items()}
    tokens = []
    for head in range(2):
        y = blocks["weight"][head, 0] @ hidden + blocks["bias"][head, 0]
        y = y + np.asarray(lm.heads_params["root"]["weight"])[head] @ e
        x = hidden + y / (1 + np.exp(-y))
        tokens.append(int(np.argmax(np.asarray(lm.params["lm_head"]["weight"]) @ x)))
    return tokens


def test_the_tree_holds_what_the_equation_proposes(lm):
    runtime = make_runtime(lm)
    batch = runtime.start(make_request([6]), [[3, 1, 4]])
    tokens = [3, 1, 4]
    for _ in range(3):
        hidden = last_hidden(lm, tokens)
        root = next_token(lm, hidden)
        drafted = np.asarray(batch.state.draft.token_BR)[0].tolist()
        assert drafted == [root, *proposals(lm, hidden, root)]
        batch = runtime.advance(batch, 1)
        tokens = [3, 1, 4, *np.asarray(batch.state.output_BO)[0, : int(batch.state.num_new_B[0])]]


def test_at_initialisation_the_root_changes_nothing(lm):
    params = init_heads(CONFIG, lm.params["lm_head"]["weight"], jnp.float32)
    hidden, root = jnp.ones((3, 16)), jnp.asarray(np.random.default_rng(1).normal(size=(3, 1, 16)))
    heads = MedusaHeads(CONFIG)
    logits = heads.apply({"params": params}, hidden, lm.params["lm_head"]["weight"], root)
    expected = hidden @ lm.params["lm_head"]["weight"].T
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_missing_root_is_an_error(lm):
    heads = MedusaHeads(CONFIG)
    with pytest.raises(ValueError, match="need 1 tokens after each"):
        heads.apply({"params": lm.heads_params}, jnp.ones(16), lm.params["lm_head"]["weight"])


def test_file_round_trip(lm, tmp_path):
    save_heads(tmp_path, CONFIG, lm.heads_params, format="C", base_model="x", vocab_size=24)
    config, params = load_heads(tmp_path, hidden_size=16, vocab_size=24, dtype=jnp.float32)
    assert config == CONFIG
    for name in ("blocks", "root"):
        np.testing.assert_array_equal(params[name]["weight"], lm.heads_params[name]["weight"])


@pytest.mark.parametrize("format", ["A", "vllm"])
def test_formats_that_cannot_hold_them_refuse(lm, tmp_path, format):
    with pytest.raises(UserError, match="root-conditioned"):
        save_heads(
            tmp_path / "x",
            CONFIG,
            lm.heads_params,
            format=format,
            base_model="x",
            vocab_size=24,
            lm_head=lm.params["lm_head"]["weight"],
        )
    assert not (tmp_path / "x").exists()
