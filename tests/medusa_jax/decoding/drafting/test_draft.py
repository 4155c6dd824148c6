"""Taking one node's values out of every row."""

import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.drafting import draft


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 7), (3, 5, 2, 4), (20, 5), (20, 5, 7)])
@pytest.mark.parametrize("way", [draft.pick, draft._gathered, draft._one_by_one])
def test_every_row_gives_its_own_node(shape, way):
    x_BR = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    node_B = (np.arange(shape[0]) * 3 % shape[1]).astype(np.int32)
    found = way(jnp.asarray(x_BR), jnp.asarray(node_B))
    np.testing.assert_array_equal(found, x_BR[np.arange(shape[0]), node_B])
