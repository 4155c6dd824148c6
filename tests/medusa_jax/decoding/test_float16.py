"""float16: what exceeds it is kept in float32, and greedy tokens are those of float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding.cache import storage_dtype
from medusa_jax.decoding.options import GenerationConfig, rule_numbers
from medusa_jax.decoding.rules.lossless import Lossless
from medusa_jax.io.load import for_decoding
from medusa_jax.nn.llama import Llama, causal_mask
from tests.medusa_jax.decoding.batches import decoded, rows
from tests.medusa_jax.tiny import CONFIG, tiny_lm

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7, 5], [1, 20, 300, 42]]
_TIE = 0.02  # a float16 sum of these models' logits is within this of the float32 one


def half(lm, dtype="float16"):
    def cast(x):
        return x.astype(dtype) if x.dtype == jnp.float32 else x

    params, heads = jax.tree.map(cast, (lm.params, lm.heads_params))
    return dataclasses.replace(lm, params=params, heads_params=heads, dtype=dtype)


def logits_of(lm, tokens):
    """float32 [T, V], the whole sequence from scratch."""
    token_1T, T = jnp.asarray([tokens], jnp.int32), len(tokens)
    llama, variables = Llama(lm.config, jnp.dtype(lm.dtype)), {"params": lm.params}
    position_1T = jnp.arange(T, dtype=jnp.int32)[None]
    hidden = llama.apply(variables, token_1T, position_1T, causal_mask(T))[0]
    assert hidden.dtype == jnp.dtype(lm.dtype)
    return np.asarray(llama.apply(variables, hidden[0], method="logits"))


def test_greedy_tokens_are_those_of_float32_but_for_near_ties(stories260k):
    exact = medusa_jax.load(str(stories260k), "none", dtype="float32")
    fast = medusa_jax.load(str(stories260k), "none", dtype="float16")
    assert {x.dtype.name for x in jax.tree.leaves(fast.params)} == {"float16"}
    for prompt in PROMPTS:
        (answer,) = rows(decoded(fast, [prompt], [24]))
        logits_TV = logits_of(exact, prompt + answer)[len(prompt) - 1 : -1]
        gap = logits_TV.max(-1) - logits_TV[np.arange(len(answer)), answer]
        assert gap.max() < _TIE
        assert (gap > 0).sum() <= 1


@pytest.mark.parametrize(
    ("tree", "quantize", "rule"),
    [
        ("mc_sim_7b_63", "none", None),
        ("dynamic:8", "none", None),
        ("chain:3", "int8", Lossless()),
    ],
)
def test_trees_accept_what_plain_decoding_in_float16_gives(tree, quantize, rule):
    lm = half(tiny_lm("chain:0", config=dataclasses.replace(CONFIG, num_layers=1)))
    lm = for_decoding(lm, None, quantize)
    numbers = rule_numbers([GenerationConfig(temperature=0.9)] * 2) if rule else ()
    plain, fast = (
        decoded(lm.with_tree(t), PROMPTS[:2], [16] * 2, rule=rule, rule_numbers=numbers)
        for t in ("chain:0", tree)
    )
    assert rows(fast) == rows(plain)
    assert int(fast.num_steps_B.sum()) < int(plain.num_steps_B.sum())


def test_numbers_beyond_float16_stay_finite():
    """A residual stream of a few hundred thousand, as some published models have."""
    lm = tiny_lm("chain:0")
    large = jax.tree.map(lambda x: x, lm.params)
    large["embed"] = {"weight": lm.params["embed"]["weight"] * 1e4}
    down = lm.params["layers_0"]["mlp"]["down"]["weight"] * 2e4
    large["layers_0"] = large["layers_0"] | {
        "mlp": large["layers_0"]["mlp"] | {"down": {"weight": down}}
    }
    exact = dataclasses.replace(lm, params=large)
    wanted = logits_of(exact, PROMPTS[1])
    llama = Llama(CONFIG)
    token_1T = jnp.asarray([PROMPTS[1]], jnp.int32)
    deep = llama.apply(
        {"params": large},
        token_1T,
        jnp.arange(2, dtype=jnp.int32)[None],
        causal_mask(2),
        capture_intermediates=True,
        mutable="intermediates",
    )[1]["intermediates"]["layers_0"]["__call__"][0][0]
    assert float(jnp.abs(deep).max()) > 2 * 65504
    found = logits_of(half(exact), PROMPTS[1])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, atol=0.05, rtol=0.05)


def test_a_cpu_keeps_keys_and_values_in_float32():
    assert storage_dtype("float16", "cpu") == "float32"
    assert storage_dtype("float16", "gpu") == "float16"
