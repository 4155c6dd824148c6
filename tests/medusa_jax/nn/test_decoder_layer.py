"""What a layer's program for a TPU has that others have not."""

import jax
import jax.numpy as jnp
import pytest

from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.llama import Llama, causal_mask
from tests.medusa_jax.packed import SMALL


def barriers(platform: str, batch: int, length: int) -> int:
    """In the program of one layer."""
    llama, params = Llama(SMALL, dtype=jnp.bfloat16), abstract_params(SMALL, jnp.bfloat16)

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
    assert barriers("tpu", batch, length) == expected
    assert barriers("cuda", batch, length) == 0
    assert barriers("cpu", batch, length) == 1  # for a table of embeddings in bfloat16
