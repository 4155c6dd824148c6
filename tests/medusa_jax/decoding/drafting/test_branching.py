"""What heads that see their branch propose in half precision, against their equations."""

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.drafting.branching import make_brancher
from tests.medusa_jax.branch_heads import KINDS, branch_lm, slow_logits
from tests.medusa_jax.decoding.test_float16 import half
from tests.medusa_jax.packed import quick_jit


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_operands_of_products_are_rounded_and_sums_are_not(kind, dtype):
    lm = half(branch_lm(kind, num_layers=2), dtype)
    weights, backbone = lm.heads_params, lm.params
    brancher, own = make_brancher(lm.heads_config, weights, backbone, depth=4, top_k=3, dtype=dtype)
    rng = np.random.default_rng(0)
    hidden_BD = jnp.asarray(rng.normal(size=(2, 16)), dtype)
    token_BNJ = rng.integers(24, size=(2, 3, 3), dtype=np.int32)
    token_BNJ[..., 0] = token_BNJ[:, :1, 0]

    @quick_jit
    def propose(params):
        start = brancher.start(params, hidden_BD, jnp.asarray(token_BNJ[:, 0, 0]))
        return brancher.propose(params, start, jnp.asarray(token_BNJ), lambda score, *_: score)

    score_BNV, _, token_BNk = propose({"backbone": backbone, "drafter": own})
    for b, n in np.ndindex(2, 3):
        embedded, lm_head_VD = backbone["embed"]["weight"][token_BNJ[b, n]], backbone["lm_head"]
        slow_V = slow_logits(
            kind, weights, 2, hidden_BD[b], embedded, lm_head_VD["weight"], jnp.dtype(dtype)
        )
        np.testing.assert_allclose(score_BNV[b, n], slow_V, rtol=1e-4, atol=1e-4)
        assert token_BNk[b, n].tolist() == np.argsort(-slow_V)[:3].tolist()
