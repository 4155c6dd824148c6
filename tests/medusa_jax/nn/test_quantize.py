"""Quantised backbones: error, size, and training through them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax import UserError
from medusa_jax.config import MedusaConfig
from medusa_jax.io.hf.weights import param_shapes
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.lora import init_lora
from medusa_jax.nn.quantize import quantize_backbone, widened
from medusa_jax.objectives.labels import count_labels
from medusa_jax.objectives.objective import Objective
from tests.medusa_jax.tiny import CONFIG as SMALL

CONFIG = dataclasses.replace(SMALL, hidden_size=64, intermediate_size=128, head_dim=16)
# Of a normal distribution: half a step of 127 over a row's largest entry, and QLoRA's 16 levels.
_ERROR = {"int8": 0.01, "nf4": 0.11}


@pytest.fixture(scope="module")
def params():
    pytest.importorskip("qwix", reason="the extra [quant] is not installed")
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape) * 0.1, jnp.float32),
        param_shapes(CONFIG),
        is_leaf=lambda x: isinstance(x, tuple),
    )


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_only_matrices_of_the_layers_are_quantised_and_their_error_is_small(params, kind):
    with jax.numpy_dtype_promotion("standard"):
        quantised = quantize_backbone(params, kind)
        for name in ("embed", "lm_head", "final_norm"):
            assert quantised[name] is not None
            jax.tree.map(np.testing.assert_array_equal, quantised[name], params[name])
        for part, matrix in (("attn", "q"), ("attn", "o"), ("mlp", "down")):
            exact = np.asarray(params["layers_1"][part][matrix]["weight"])
            close = widened(quantised["layers_1"][part][matrix]["weight"], jnp.float32)
            error = np.linalg.norm(close - exact) / np.linalg.norm(exact)
            assert 0 < error < _ERROR[kind]


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4)])
def test_codes_take_the_bits_they_say(params, kind, bits):
    with jax.numpy_dtype_promotion("standard"):
        weight = quantize_backbone(params, kind)["layers_0"]["mlp"]["up"]["weight"]
    assert jnp.iinfo(weight.qvalue.dtype).bits == bits
    assert weight.scale.size == weight.qvalue.size // 64  # a row has 64 columns


@pytest.mark.parametrize(("kind", "remat"), [("int8", False), ("nf4", True)])
def test_adapters_and_heads_learn_over_a_quantised_backbone(params, kind, remat):
    heads = MedusaConfig(num_heads=2, hidden_size=64, vocab_size=CONFIG.vocab_size)
    objective = Objective(CONFIG, heads, "medusa2", remat=remat)
    rng = np.random.default_rng(1)
    shape = (2, 12)
    batch = {
        "token": jnp.asarray(rng.integers(0, CONFIG.vocab_size, shape), jnp.int32),
        "is_label": jnp.ones(shape, bool),
        "segment": jnp.ones(shape, jnp.int32),
        "position": jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32)[None], shape),
    }
    trained = {
        "heads": init_heads(heads, params["lm_head"]["weight"], jnp.float32),
        "lora": init_lora(params, 4, jax.random.key(0), jnp.float32),
    }

    @jax.jit
    def loss_and_gradient(trained, backbone):
        def loss(trained):
            all_params = trained | {"backbone": backbone}
            labels = objective.labels(all_params, batch)
            return objective.loss(all_params, batch, labels, count_labels(labels))[0]

        return jax.value_and_grad(loss)(trained)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        quantised = quantize_backbone(params, kind)
        wide = jax.tree.map(
            lambda w: widened(w, jnp.float32), quantised, is_leaf=lambda x: hasattr(x, "qvalue")
        )
        value, gradient = loss_and_gradient(trained, quantised)
        expected, expected_gradient = loss_and_gradient(trained, wide)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        gradient,
        expected_gradient,
    )


def test_columns_that_no_block_divides_are_refused(params):
    small = {"layers_0": {"attn": {"q": {"weight": jnp.ones((8, 48))}}}}
    with pytest.raises(UserError, match="48 columns"):
        quantize_backbone(small, "nf4")
