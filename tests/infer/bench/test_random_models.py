import jax
import jax.numpy as jnp
import pytest

from infer.bench import random_models as shapes
from medusa_jax.io.hf.weights import abstract_params


# Published parameter counts, in billions.
@pytest.mark.parametrize(
    ("shape", "billions"), [("llama-1b", 1.24), ("llama-3b", 3.21), ("llama-7b", 6.74)]
)
def test_shapes_have_the_published_sizes(shape, billions):
    leaves = jax.tree.leaves(abstract_params(shapes.SHAPES[shape], "float32"))
    assert round(sum(leaf.size for leaf in leaves) / 1e9, 2) == billions


def test_random_model_is_what_its_description_says():
    lm = shapes.random_lm("tiny", "bfloat16", own_projection=True)
    leaves = jax.tree.leaves((lm.params, lm.heads_params))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert lm.heads_params["projection"]["weight"].shape == (5, 512, 64)
    assert (lm.params["final_norm"]["scale"] == 1).all()
    weight = lm.params["layers_4"]["mlp"]["down"]["weight"]
    assert 0.019 < float(weight.astype("float32").std()) < 0.021
    assert not jnp.array_equal(weight, lm.params["layers_3"]["mlp"]["down"]["weight"])
