"""Counted operations against sums done by hand and against what XLA says of the compiled model."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import Conditioning, LlamaConfig, MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.heads import MedusaHeads, init_heads
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.plan.costs import costs_of
from medusa_jax.plan.parse import parse
from train import flops
from train.flops import Work, flops_per_token

# D=2, F=3, one layer, N=2 and K=1 heads of H=5, V=7.
SMALL = LlamaConfig(
    vocab_size=7,
    hidden_size=2,
    intermediate_size=3,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=5,
    max_position=64,
)
HEADS = MedusaConfig(num_heads=3, hidden_size=2, vocab_size=7)
# q 20, k 10, v 10, o 20, three MLP matrices of 6; attention over (1 + 2 + 3) / 3 = 2 keys.
LAYERS, LM_HEAD, ATTENTION = 78, 14, 4 * 10 * 2
BLOCKS, PROJECTION = 3 * 4, 3 * 14
FORWARD = 2 * LAYERS + ATTENTION


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Work("medusa1"), FORWARD + 4 * BLOCKS + 4 * PROJECTION),
        (Work("medusa1", cached=True), 4 * BLOCKS + 4 * PROJECTION),
        (Work("medusa1", soft_labels=True), FORWARD + 2 * LM_HEAD + 4 * BLOCKS + 4 * PROJECTION),
        (Work("medusa2"), 3 * (FORWARD + 2 * LM_HEAD) + 6 * BLOCKS + 6 * PROJECTION),
        (
            # Adapters of rank 2: q 12, k 7, v 7, o 12, MLP 5 each, LM head 9, times the rank.
            Work("medusa2", lora_rank=2),
            4 * (LAYERS + LM_HEAD)
            + 3 * ATTENTION
            + 6 * 2 * (12 + 7 + 7 + 12 + 15 + 9)
            + 6 * BLOCKS
            + 4 * PROJECTION
            + 6 * 3 * 2 * 9,
        ),
    ],
)
def test_small_networks_by_hand(work, expected):
    assert flops_per_token(SMALL, HEADS, 3, work) == pytest.approx(expected)


def test_the_teacher_is_one_more_forward_pass():
    student = flops_per_token(SMALL, HEADS, 3, Work("medusa2", lora_rank=2))
    both = flops_per_token(SMALL, HEADS, 3, Work("self_distill", lora_rank=2))
    assert both - student == FORWARD + 2 * LM_HEAD


def test_heads_of_every_kind():
    own = dataclasses.replace(HEADS, own_projection=True, num_layers=2)
    assert flops_per_token(SMALL, own, 3, Work("medusa1", cached=True)) == (
        4 * BLOCKS + 6 * BLOCKS + 6 * PROJECTION
    )
    bare = dataclasses.replace(own, num_layers=0)
    assert flops_per_token(SMALL, bare, 3, Work("medusa1", cached=True)) == 4 * PROJECTION
    rooted = dataclasses.replace(HEADS, conditioning="root", vocab_size=4)
    assert flops_per_token(SMALL, rooted, 3, Work("medusa1", cached=True)) == (
        8 * BLOCKS + 4 * 3 * 8
    )


def test_windows_shorten_attention():
    # Window 2 over 4 tokens: 1 + 2 + 2 + 2 keys; the other layer is full: 1 + 2 + 3 + 4.
    config = dataclasses.replace(SMALL, num_layers=2, windows=(2, None))
    assert flops.attention_flops(config, 4) == pytest.approx(40 * (7 / 4 + 10 / 4))


def compiled_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_forward_pass_agrees_with_the_compiler():
    config = dataclasses.replace(
        SMALL, vocab_size=512, hidden_size=64, intermediate_size=192, head_dim=32
    )
    heads = MedusaConfig(num_heads=3, hidden_size=64, vocab_size=512)
    T = 32
    params = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), abstract_params(config, jnp.float32)
    )
    head_params = init_heads(heads, params["lm_head"]["weight"], jnp.float32)

    def forward(params, head_params, token_BT):
        position_BT = jnp.arange(T, dtype=jnp.int32)[None]
        llama = Llama(config)
        hidden, _ = llama.apply({"params": params}, token_BT, position_BT, causal_mask(T))
        logits = llama.apply({"params": params}, hidden, method="logits")
        return logits, MedusaHeads(heads).apply(
            {"params": head_params}, hidden, params["lm_head"]["weight"]
        )

    measured = compiled_flops(forward, params, head_params, np.zeros((1, T), np.int32)) / T
    # The compiled mask computes all T keys, the count only those that a causal model needs.
    full = flops.attention_flops(config, T) * T / ((T + 1) / 2)
    P_h, P_p = 3 * 64 * 64, 3 * 512 * 64
    counted = 2 * (flops.layer_parameters(config) + 512 * 64 + P_h + P_p) + full
    assert measured == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("kind", get_args(Conditioning))
def test_heads_update_agrees_with_the_compiler(kind):
    """Forward and gradient of the heads alone, frozen hidden states and projection."""
    heads = MedusaConfig(
        num_heads=3,
        hidden_size=128,
        vocab_size=32,
        num_layers=2,
        conditioning=kind,
        markov_rank=64 if "markov" in kind else 0,
    )
    weight = jnp.ones((32, 128))
    params = init_heads(heads, weight, jnp.float32)

    def loss(params, hidden, branch):
        logits = MedusaHeads(heads).apply({"params": params}, hidden, weight, branch)
        return jax.nn.logsumexp(logits).sum()

    inputs = np.ones((32, 128), np.float32), np.ones((32, 3, 128), np.float32)
    text = jax.jit(jax.grad(loss)).lower(params, *inputs).compile().as_text()
    counted = flops_per_token(SMALL, heads, 1, Work("medusa1", cached=True))
    assert costs_of(parse(text)).flops == 32 * counted


def test_utilisation():
    device = jax.devices()[0]
    assert flops.mfu(1e12, 1.0, device) is None
    assert flops.device_memory_bytes() is None

    class Accelerator:
        device_kind = "NVIDIA H200"

    assert flops.mfu(989.4e12, 2.0, Accelerator()) == pytest.approx(0.5)
