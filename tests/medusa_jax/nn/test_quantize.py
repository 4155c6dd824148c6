"""Quantised backbones: error, size, and training through them."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax import UserError
from medusa_jax.config import MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.heads import MedusaHeads, init_heads
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.nn.lora import init_lora
from medusa_jax.nn.product import product
from medusa_jax.nn.quantize import (
    Int8,
    int8,
    int8_matrices,
    is_quantized,
    quantize_backbone,
    widened,
)
from medusa_jax.objectives.labels import count_labels
from medusa_jax.objectives.logits import lm_heads
from medusa_jax.objectives.objective import Objective
from medusa_jax.pin import Pin
from tests.medusa_jax.packed import quick_jit
from tests.medusa_jax.tiny import CONFIG as SMALL
from tests.medusa_jax.tiny import tiny_lm

CONFIG = dataclasses.replace(SMALL, hidden_size=64, intermediate_size=128, head_dim=16)
# Of a normal distribution: half a step of 127 over a row's largest entry, and QLoRA's 16 levels.
_ERROR = {"int8": 0.01, "nf4": 0.11}


@pytest.fixture(scope="module")
def params():
    pytest.importorskip("qwix", reason="the extra [quant] is not installed")
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.1, x.dtype),
        abstract_params(CONFIG, jnp.float32),
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


def test_nf4_is_widened_as_qwix_does_without_looking_up_elements(params):
    import qwix

    with jax.numpy_dtype_promotion("standard"):
        weight = quantize_backbone(params, "nf4")["layers_0"]["mlp"]["down"]["weight"]
        assert set(np.unique(np.asarray(weight.qvalue.astype(jnp.int32)))) == set(range(16))
        lowered = jax.jit(lambda w: widened(w, jnp.float32)).lower(weight)
        np.testing.assert_array_equal(lowered.compile()(weight), qwix.dequantize(weight))
    gathers = [line for line in lowered.as_text().splitlines() if '"stablehlo.gather"' in line]
    assert all(re.search(r"-> tensor<(?:1x)?16(?:x1)?xf32>", line) for line in gathers)


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4)])
def test_codes_take_the_bits_they_say(params, kind, bits):
    with jax.numpy_dtype_promotion("standard"):
        weight = quantize_backbone(params, kind)["layers_0"]["mlp"]["up"]["weight"]
    assert jnp.iinfo(weight.qvalue.dtype).bits == bits
    assert weight.scale.size == weight.qvalue.size // 64  # a row has 64 columns


@pytest.mark.parametrize(("kind", "meshes"), [("int8", [None]), ("nf4", [None, (1, 2, 1)])])
def test_adapters_and_heads_learn_over_a_quantised_backbone(params, kind, meshes):
    """Computed again from codes that devices gather, too."""
    heads = MedusaConfig(num_heads=2, hidden_size=64, vocab_size=CONFIG.vocab_size)
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

    def loss_and_gradient(backbone, **options):
        objective = Objective(CONFIG, heads, "medusa2", **options)

        def loss(trained, backbone):
            all_params = trained | {"backbone": backbone}
            labels = objective.labels(all_params, batch)
            return objective.loss(all_params, batch, labels, count_labels(labels))[0]

        return jax.device_get(quick_jit(jax.value_and_grad(loss))(trained, backbone))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        quantised = quantize_backbone(params, kind)
        wide = jax.tree.map(
            lambda w: widened(w, jnp.float32) if is_quantized(w) else w,
            quantised,
            is_leaf=is_quantized,
        )
        expected = loss_and_gradient(wide)
        pins = [sizes and Pin(make_mesh(*sizes)) for sizes in meshes]
        found = [loss_and_gradient(quantised, remat=kind == "nf4", pin=pin) for pin in pins]
    for value, gradient in found:
        np.testing.assert_allclose(value, expected[0], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
            gradient,
            expected[1],
        )


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_heads_share_rows_of_a_quantised_lm_head(params, kind):
    token_map = np.array([5, 0, 17], np.int32)
    with jax.numpy_dtype_promotion("standard"):
        lm_head = quantize(params["lm_head"]["weight"], kind, 0)
        backbone = params | {"lm_head": {"weight": lm_head}}
        base, shared = lm_heads({"backbone": backbone, "token_map": token_map})
    assert base["weight"] is lm_head
    np.testing.assert_array_equal(shared["weight"], widened(lm_head, jnp.float32)[token_map])


def test_columns_that_no_block_divides_are_refused(params):
    small = {"layers_0": {"attn": {"q": {"weight": jnp.ones((8, 48))}}}}
    with pytest.raises(UserError, match="48 columns"):
        quantize_backbone(small, "nf4")


def test_without_qwix_there_is_no_nf4(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match="nf4 needs qwix: pip install"):
        quantize_backbone({}, "nf4")


def quantize(weight, kind, *channels):
    qwix = pytest.importorskip("qwix", reason="the extra [quant] is not installed")
    qtype, tiles = (jnp.int8, {}) if kind == "int8" else (kind, {weight.ndim - 1: 64})
    return qwix.quantize(weight, qtype, channelwise_axes=channels, tiled_axes=tiles)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("equation", ["XD,FD->XF", "MXD,MFD->MXF", "XF,FD->XD"])
def test_products_and_their_gradients_are_those_of_the_widened_matrix(equation, kind):
    axes = {"X": 5, "F": 64, "D": 128, "M": 3}
    of_x, of_y = equation.split("->")[0].split(",")
    x, weight = (normal(*(axes[c] for c in term)) for term in (of_x, of_y))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        y = quantize(weight, kind, *range(weight.ndim - 1))
        wide = np.asarray(widened(y, jnp.float32), np.float64)
        value, vjp = jax.vjp(lambda x: product(equation, x, y, jnp.float32), x)
        gradient = vjp(jnp.cos(value))[0]
    np.testing.assert_allclose(value, np.einsum(equation, x, wide), rtol=1e-4, atol=1e-4)
    back = f"{equation.split('->')[1]},{of_y}->{of_x}"
    np.testing.assert_allclose(gradient, np.einsum(back, np.cos(value), wide), rtol=1e-4, atol=1e-4)


def test_codes_with_a_scale_per_row_are_never_widened():
    """Forwards and backwards: no float array of the matrix's size but the operand itself."""
    x, weight = normal(4, 64), normal(32, 64, seed=1)
    with jax.numpy_dtype_promotion("standard"):
        y = quantize(weight, "int8", 0)

    def loss(x, y):
        return product("XD,FD->XF", x, y, jnp.bfloat16).sum()

    text = jax.jit(jax.value_and_grad(loss)).lower(x, y).as_text()
    assert "multiply" in text
    assert not [line for line in text.splitlines() if "multiply" in line and "32x64" in line]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_embedding_lm_head_and_heads_may_be_quantised_too(params, kind):
    heads = MedusaConfig(2, 64, CONFIG.vocab_size, num_layers=2, own_projection=True)
    blocks, projection = normal(2, 2, 64, 64), normal(2, CONFIG.vocab_size, 64, seed=1)
    token_BT = jnp.asarray([[3, 1, 4, 1, 5]], jnp.int32)
    position_BT = jnp.arange(5, dtype=jnp.int32)[None]

    def logits(embed, lm_head, blocks, projection):
        backbone = params | {"embed": {"weight": embed}, "lm_head": {"weight": lm_head}}
        variables, llama = {"params": backbone}, Llama(CONFIG)
        hidden, _ = llama.apply(variables, token_BT, position_BT, causal_mask(5))
        own = {
            "blocks": {"weight": blocks, "bias": jnp.zeros((2, 2, 64))},
            "projection": {"weight": projection},
        }
        next_logits = MedusaHeads(heads).apply({"params": own}, hidden)
        return llama.apply(variables, hidden, method="logits"), next_logits

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        quantised = [
            quantize(params["embed"]["weight"], kind, 0),
            quantize(params["lm_head"]["weight"], kind, 0),
            quantize(blocks, kind, 0, 1, 2),
            quantize(projection, kind, 0, 1),
        ]
        found = jax.jit(logits)(*quantised)
        wanted = jax.jit(logits)(*(widened(weight, jnp.float32) for weight in quantised))
    for got, exact in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)


def test_int8_rounds_to_the_nearest_code_of_each_row():
    weight = np.random.default_rng(0).normal(size=(3, 6, 40)).astype(np.float32)
    weight[1, 2] = 0
    found = jax.jit(int8)(weight)
    assert (found.qvalue.dtype, found.scale.shape) == (jnp.int8, (3, 6, 1))
    for place in np.ndindex(3, 6):
        row, scale = weight[place], float(np.asarray(found.scale)[place][0])
        assert scale == pytest.approx(np.abs(row).max() / 127)
        error = np.abs(np.asarray(found.qvalue, np.float32)[place] * scale - row)
        assert error.max() <= scale / 2 * (1 + 1e-5)
    codes = np.abs(np.asarray(found.qvalue, np.int32)).max(-1)
    assert codes[1, 2] == 0
    assert (np.delete(codes.ravel(), 8) == 127).all()


@pytest.mark.parametrize("rows", [1, 2, 7, 48, 61, 640])
@pytest.mark.parametrize(("equation", "leading"), [("XD,FD->XF", ()), ("MXD,MFD->MXF", (3,))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_blocks_of_codes_are_multiplied_as_the_whole_is(
    monkeypatch, equation, leading, rows, dtype
):
    """Whole numbers of which every dtype knows the products; blocks of one row and of many."""
    monkeypatch.setattr("medusa_jax.nn.product._BLOCK_BYTES", 2**12)
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, (*leading, 5, 16))
    codes = rng.integers(-8, 9, (*leading, rows, 16))
    scale = 2.0 ** rng.integers(-3, 3, (*leading, rows, 1))
    weight = Int8(jnp.asarray(codes, jnp.int8), jnp.asarray(scale, jnp.float32))
    found = jax.jit(lambda x: product(equation, x, weight, jnp.dtype(dtype)))(jnp.asarray(x, dtype))
    np.testing.assert_array_equal(found, np.einsum(equation, x, codes * scale))


def test_a_model_that_decodes_is_quantised_but_for_norms_and_biases():
    lm = tiny_lm("chain:1", token_map=np.asarray([3, 1, 2], np.int32))
    found = int8_matrices({"backbone": lm.params, "heads": lm.heads_params})
    assert not is_quantized(found["backbone"]["final_norm"]["scale"])
    assert not is_quantized(found["heads"]["blocks"]["bias"])
    assert found["heads"]["token_map"].dtype == jnp.int32
    layer = found["backbone"]["layers_0"]
    for weight in (found["backbone"]["embed"], layer["attn"]["o"], found["heads"]["blocks"]):
        assert is_quantized(weight["weight"])
    again = int8_matrices(found)
    assert again["backbone"]["embed"]["weight"] is found["backbone"]["embed"]["weight"]
