"""What a layer's program for a TPU has and others lack."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from medusa_jax.config import LlamaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.llama import Llama, causal_mask
from tests.medusa_jax.packed import SMALL

WIDE = dataclasses.replace(SMALL, hidden_size=2048, intermediate_size=2048)


def barriers(config: LlamaConfig, platform: str, batch: int, length: int) -> int:
    """In the program of one layer."""
    llama, params = Llama(config, dtype=jnp.bfloat16), abstract_params(config, jnp.bfloat16)

    def forward(params, token_BT, position_BT):
        hidden, _ = llama.apply({"params": params}, token_BT, position_BT, causal_mask(length))
        return hidden

    token = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    traced = jax.jit(forward).trace(params, token, token)
    return traced.lower(lowering_platforms=(platform,)).as_text().count("optimization_barrier")


@pytest.mark.parametrize(
    ("batch", "length", "expected"),
    [(1, 1, 0), (2, 1, 3), (1, 64, 3), (4, 32, 3), (1, 129, 0), (3, 64, 0)],
)
def test_of_few_rows_a_tpu_computes_norms_and_activations_once(batch, length, expected):
    assert barriers(WIDE, "tpu", batch, length) == expected
    assert barriers(SMALL, "tpu", batch, length) == 0
    assert barriers(WIDE, "cuda", batch, length) == 0
    assert barriers(WIDE, "cpu", batch, length) == 1  # for a table of embeddings in bfloat16
