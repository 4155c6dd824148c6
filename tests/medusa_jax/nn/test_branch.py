"""Heads that see their branch against their equations, and what training begins with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.nn.branch import (
    branch_term,
    can_learn_to_see,
    extended,
    first_heads,
    head_hidden,
    own_params,
)
from medusa_jax.nn.heads import MedusaHeads, init_heads
from medusa_jax.nn.quantize import int8_matrices, is_quantized
from tests.medusa_jax.branch_heads import KINDS, KINDS_AND_OWN, branch_lm, heads_of, slow_logits
from tests.medusa_jax.packed import quick_jit


def inputs(leading=(2, 3), J=4, D=16):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(*leading, D)).astype(np.float32)
    branch = rng.normal(size=(*leading, J, D)).astype(np.float32) * 0.1
    return hidden, branch


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(("kind", "own"), KINDS_AND_OWN)
def test_logits_are_those_of_the_equations(kind, own, num_layers):
    lm = branch_lm(kind, num_layers=num_layers, own=own)
    hidden, branch = inputs()
    lm_head_VD = lm.params["lm_head"]["weight"]
    apply = jax.jit(MedusaHeads(lm.heads_config).apply)
    logits = apply({"params": lm.heads_params}, hidden, None if own else lm_head_VD, branch)
    assert (logits.shape, logits.dtype) == ((2, 3, 4, 24), jnp.float32)
    for *place, head in np.ndindex(2, 3, 4):
        at = tuple(place)
        if own:
            lm_head_VD = lm.heads_params["projection"]["weight"][head]
        slow_V = slow_logits(kind, lm.heads_params, head, hidden[at], branch[at], lm_head_VD)
        np.testing.assert_allclose(logits[*at, head], slow_V, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_sees_the_tokens_before_its_own_and_no_other(kind):
    lm = branch_lm(kind)
    hidden, branch = inputs(leading=())

    def logits(branch):
        return MedusaHeads(lm.heads_config).apply(
            {"params": lm.heads_params}, hidden, lm.params["lm_head"]["weight"], branch
        )

    moved_MJ = np.abs(np.asarray(quick_jit(jax.jacobian(logits))(branch))).max(axis=(1, 3)) > 0
    sees_MJ = np.tril(np.ones((4, 4), bool))
    if "markov" in kind:
        sees_MJ = np.eye(4, dtype=bool) | (np.arange(4) == 0)
    np.testing.assert_array_equal(moved_MJ, sees_MJ)


@pytest.mark.parametrize("kind", ["branch", "recurrent"])
def test_one_head_is_that_of_all(kind):
    lm = branch_lm(kind, num_layers=2)
    hidden, branch = inputs()
    heads = MedusaHeads(lm.heads_config)
    apply = quick_jit(heads.apply, static_argnames="method")
    all_heads = apply({"params": lm.heads_params}, hidden, branch, method="hidden")
    for m, own in enumerate(own_params(lm.heads_config, lm.heads_params)):
        term = branch_term(own, jnp.asarray(branch[..., : m + 1, :]), jnp.float32)
        one = head_hidden(own, jnp.asarray(hidden), term, jnp.float32)
        np.testing.assert_allclose(one, all_heads[..., m, :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "own"), KINDS_AND_OWN)
def test_quantised_matrices_are_read_like_any_others(kind, own):
    lm = branch_lm(kind, num_layers=2, own=own)
    hidden, branch = inputs()
    lm_head_VD = None if own else lm.params["lm_head"]["weight"]
    quantised = int8_matrices(lm.heads_params)
    widened = jax.tree.map(
        lambda x: x.scale * x.qvalue.astype(jnp.float32) if is_quantized(x) else x,
        quantised,
        is_leaf=is_quantized,
    )
    apply = quick_jit(MedusaHeads(lm.heads_config).apply)
    found = apply({"params": quantised}, hidden, lm_head_VD, branch)
    wanted = apply({"params": widened}, hidden, lm_head_VD, branch)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["markov", "branch"])
def test_what_exceeds_float16_becomes_its_largest_number(kind):
    lm = branch_lm(kind)
    hidden, branch = inputs()

    def found(dtype):
        args, heads = (
            (jnp.asarray(hidden * 2e4, dtype), branch),
            MedusaHeads(lm.heads_config, dtype),
        )
        return heads.apply({"params": lm.heads_params}, *args, method="hidden")

    exact = np.asarray(found(jnp.float32))
    assert np.abs(exact).max() > 65504
    half = found(jnp.float16).astype(jnp.float32)
    np.testing.assert_allclose(half, np.clip(exact, -65504, 65504), rtol=0.01, atol=100)


@pytest.mark.parametrize("kind", ["markov", "gated_markov"])
def test_the_first_heads_are_heads_of_their_own(kind):
    lm = branch_lm(kind)
    hidden, branch = inputs()
    few = dataclasses.replace(lm.heads_config, num_heads=2)
    args = hidden, lm.params["lm_head"]["weight"], branch
    whole = MedusaHeads(lm.heads_config).apply({"params": lm.heads_params}, *args)
    cut = MedusaHeads(few).apply({"params": first_heads(lm.heads_params, 2)}, *args)
    np.testing.assert_allclose(cut, whole[..., :2, :], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_heads_say_what_the_model_says_and_all_of_them_learns(kind):
    config, lm_head_VD = heads_of(kind), jnp.eye(24, 16)
    hidden, branch = inputs()
    heads, params = MedusaHeads(config), init_heads(config, lm_head_VD, jnp.float32)
    logits = heads.apply({"params": params}, hidden, lm_head_VD, branch)
    of_model = np.broadcast_to((hidden @ lm_head_VD.T)[..., None, :], logits.shape)
    np.testing.assert_array_equal(logits, of_model)

    def loss(params):
        logits = heads.apply({"params": params}, hidden, lm_head_VD, branch)
        return -jax.nn.log_softmax(logits)[..., 3].sum()

    gradient = quick_jit(jax.grad(loss))
    # What is behind a matrix of zeros learns once this has moved.
    for _ in range(2):
        grads = gradient(params)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
    assert all(np.abs(np.asarray(grad)).max() > 0 for grad in jax.tree.leaves(grads))


def test_another_key_draws_other_inner_matrices():
    config, lm_head_VD = heads_of("recurrent"), jnp.eye(24, 16)
    one, other = (
        init_heads(config, lm_head_VD, jnp.float32, None, jax.random.key(seed)) for seed in (1, 2)
    )
    assert not np.allclose(one["cell_token"]["weight"], other["cell_token"]["weight"])
    # Of unit size, as what they are applied to.
    size = np.std(np.asarray(one["cell_state"]["weight"])) * np.sqrt(16)
    assert 0.8 < size < 1.2


@pytest.mark.parametrize(
    ("kind", "own"), [pair for pair in KINDS_AND_OWN if pair[0] != "recurrent"]
)
@pytest.mark.parametrize("before", ["none", "root"])
def test_trained_heads_go_on_from_what_they_say(before, kind, own):
    """Those of the original's checkpoints too, which have projections of their own."""
    rng = np.random.default_rng(3)
    config = MedusaConfig(4, 16, 24, conditioning=before, own_projection=own)
    old = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32),
        init_heads(config, jnp.zeros((24, 16)), jnp.float32),
    )
    wanted = heads_of(kind, own_projection=own)
    assert can_learn_to_see(config, wanted)
    new = extended(old, init_heads(wanted, jnp.zeros((24, 16)), jnp.float32))
    hidden, branch = inputs()
    lm_head_VD = jnp.asarray(rng.normal(size=(24, 16)), jnp.float32)
    said = MedusaHeads(config).apply({"params": old}, hidden, lm_head_VD, branch)
    says = MedusaHeads(wanted).apply({"params": new}, hidden, lm_head_VD, branch)
    np.testing.assert_allclose(says, said, rtol=1e-5, atol=1e-5)


def test_what_cannot_go_on():
    plain, root = MedusaConfig(4, 16, 24), MedusaConfig(4, 16, 24, conditioning="root")
    assert can_learn_to_see(plain, root)
    assert not can_learn_to_see(root, plain)
    assert not can_learn_to_see(root, root)
    assert not can_learn_to_see(plain, heads_of("recurrent"))
    assert not can_learn_to_see(heads_of("branch"), heads_of("markov"))
    assert not can_learn_to_see(dataclasses.replace(plain, num_layers=2), heads_of("branch"))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("markov", {"markov_rank": 0}, "markov_rank 0 does not suit markov"),
        ("branch", {"markov_rank": 2}, "markov_rank 2 does not suit branch"),
        ("recurrent", {"bias": False}, "need biases"),
        ("branch", {"own_projection": True}, "share the LM head"),
        ("branch", {"num_layers": 0}, "need blocks"),
    ],
)
def test_heads_that_cannot_be(kind, changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(heads_of(kind), **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_tokens_are_an_error(kind):
    lm = branch_lm(kind)
    hidden, branch = inputs(J=3)
    with pytest.raises(ValueError, match="need 4 tokens after each"):
        MedusaHeads(lm.heads_config).apply(
            {"params": lm.heads_params}, hidden, lm.params["lm_head"]["weight"], branch
        )
