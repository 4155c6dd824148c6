"""Medusa heads against a NumPy loop over heads and layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.nn.heads import MedusaHeads, init_heads
from tests.medusa_jax.head_params import TOKEN_MAP, D, M, V, random_heads

CONFIGS = {
    "A": MedusaConfig(M, D, V, own_projection=True),
    "C": MedusaConfig(M, D, V),
    "two layers": MedusaConfig(M, D, V, num_layers=2),
    "no bias": MedusaConfig(M, D, V, bias=False, own_projection=True),
    "linear": MedusaConfig(M, D, V, num_layers=0, own_projection=True, bias=False),
    "one head": MedusaConfig(1, D, V),
    "draft": MedusaConfig(M, D, 5, draft_vocab=True),
    "own draft": MedusaConfig(M, D, 5, own_projection=True, draft_vocab=True),
}


def random_params(config: MedusaConfig) -> dict:
    return jax.tree.map(jnp.asarray, random_heads(config))


def numpy_logits(config, params, hidden, lm_head):
    """Paper 2.1.1 for one hidden state, in float64."""
    logits = []
    for head in range(config.num_heads):
        x = np.asarray(hidden, np.float64)
        for layer in range(config.num_layers):
            y = np.asarray(params["blocks"]["weight"][head, layer], np.float64) @ x
            if config.bias:
                y = y + np.asarray(params["blocks"]["bias"][head, layer], np.float64)
            x = x + y / (1 + np.exp(-y))
        matrix = params["projection"]["weight"][head] if config.own_projection else lm_head
        logits.append(np.asarray(matrix, np.float64) @ x)
    return np.stack(logits)


def lm_head_rows(config, seed=1):
    return jax.random.normal(jax.random.key(seed), (config.vocab_size, D))


@pytest.mark.parametrize("leading", [(), (2, 3)])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_equal_numpy_loop(config, leading):
    params, lm_head = random_params(config), lm_head_rows(config)
    hidden = jax.random.normal(jax.random.key(2), (*leading, D))
    logits = jax.jit(MedusaHeads(config).apply)({"params": params}, hidden, lm_head)
    assert logits.shape == (*leading, config.num_heads, config.vocab_size)
    assert logits.dtype == jnp.float32
    rows = np.asarray(hidden).reshape(-1, D)
    expected = np.stack([numpy_logits(config, params, row, lm_head) for row in rows])
    np.testing.assert_allclose(logits, expected.reshape(logits.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_initial_heads_equal_lm_head_exactly(config, dtype):
    # Small integers: their sums are exact in every order of summation and in bfloat16.
    rng = np.random.default_rng(0)
    hidden = rng.integers(-8, 9, (2, D)).astype(np.float32)
    lm_head = rng.integers(-8, 9, (V, D)).astype(np.float32)
    token_map = TOKEN_MAP if config.draft_vocab else None
    rows = lm_head if token_map is None else lm_head[token_map]
    params = init_heads(config, jnp.asarray(lm_head), dtype, token_map)
    logits = MedusaHeads(config, dtype).apply({"params": params}, jnp.asarray(hidden), rows)
    expected = np.broadcast_to((hidden @ rows.T)[:, None], logits.shape)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_init_heads_has_the_modules_layout(config):
    token_map = TOKEN_MAP if config.draft_vocab else None
    params = init_heads(config, jnp.ones((V, D)), jnp.bfloat16, token_map)
    declared = MedusaHeads(config).init(jax.random.key(0), jnp.ones(D), jnp.ones((V, D)))["params"]
    if config.draft_vocab:
        assert params["token_map"].dtype == jnp.int32
        np.testing.assert_array_equal(params.pop("token_map"), TOKEN_MAP)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, dict(declared))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert set(params["blocks"]) == ({"weight", "bias"} if config.bias else {"weight"})


def test_heads_and_layers_are_independent():
    config = MedusaConfig(M, D, V, num_layers=2, own_projection=True)
    params, hidden = random_params(config), jax.random.normal(jax.random.key(2), (2, D))
    heads = MedusaHeads(config)
    for head in range(M):
        grads = jax.grad(lambda p, m=head: heads.apply({"params": p}, hidden)[:, m].sum())(params)
        for leaf in jax.tree.leaves(grads):
            touched = np.abs(np.asarray(leaf)).reshape(M, -1).max(axis=1) > 0
            np.testing.assert_array_equal(touched, np.arange(M) == head)
        layers = np.abs(np.asarray(grads["blocks"]["weight"][head])).max(axis=(1, 2))
        assert (layers > 0).all()
        assert layers[0] != layers[1]


def test_hidden_is_what_gets_projected():
    config = CONFIGS["C"]
    params, hidden = random_params(config), jax.random.normal(jax.random.key(2), (2, 5, D))
    lm_head = lm_head_rows(config)
    heads = MedusaHeads(config)
    states = heads.apply({"params": params}, hidden, method="hidden")
    assert states.shape == (2, 5, M, D)
    logits = heads.apply({"params": params}, hidden, lm_head)
    np.testing.assert_allclose(states @ lm_head.T, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["A", "C"])
def test_bfloat16_row_does_not_depend_on_its_batch(name):
    config = CONFIGS[name]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(config))
    lm_head = lm_head_rows(config)
    hidden = jax.random.normal(jax.random.key(2), (3, D), jnp.bfloat16)
    heads = MedusaHeads(config, jnp.bfloat16)
    together = heads.apply({"params": params}, hidden, lm_head)
    assert together.dtype == jnp.float32
    alone = heads.apply({"params": params}, hidden[1:2], lm_head)
    np.testing.assert_allclose(alone[0], together[1], rtol=1e-5, atol=1e-5)
    exact = numpy_logits(config, params, hidden[1], lm_head)
    assert np.abs(together[1] - exact).max() < 0.03 * np.abs(exact).max()


def test_shared_heads_ask_for_the_lm_head():
    config = CONFIGS["C"]
    with pytest.raises(ValueError, match="LM head"):
        MedusaHeads(config).apply({"params": random_params(config)}, jnp.ones(D))


def test_init_heads_refuses_what_does_not_fit():
    config = CONFIGS["C"]
    with pytest.raises(ValueError, match="token_map"):
        init_heads(config, jnp.ones((V, D)), jnp.float32, TOKEN_MAP)
    with pytest.raises(ValueError, match="token_map"):
        init_heads(dataclasses.replace(config, draft_vocab=True), jnp.ones((V, D)), jnp.float32)
    with pytest.raises(ValueError, match="do not fit"):
        init_heads(config, jnp.ones((V + 1, D)), jnp.float32)
