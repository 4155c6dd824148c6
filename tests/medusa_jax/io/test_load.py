"""What `medusa_jax.load` makes of the ways to load a model."""

import jax
import jax.numpy as jnp
import pytest

import medusa_jax
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import save_heads
from medusa_jax.io.measurements import acceptance_file, times_file, write_content
from medusa_jax.nn.heads import init_heads

RATES = [[[0.5, 0.25]], [[0.4, 0.125]]]
TIMES = {"float32": [[1, 1, 256, 0.5], [1, 2, 256, 0.75]]}


@pytest.fixture
def paths(stories260k, tmp_path, monkeypatch):
    """A model with heads, whose acceptance and step times have been measured."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    config = MedusaConfig(num_heads=2, hidden_size=64, vocab_size=512)
    params = init_heads(config, jnp.zeros((512, 64)), jnp.float32)
    save_heads(tmp_path / "heads", config, params, format="C", base_model="-", vocab_size=512)
    files = stories260k, tmp_path / "heads"
    acceptance = [{"temperature": 0, "rates": RATES}]
    write_content(acceptance_file(*files), {"acceptance": acceptance})
    write_content(times_file(*files, jax.devices()[0]), {"times": TIMES, "fastest": "float32"})
    return tuple(map(str, files))


def test_step_times_are_those_of_the_model_as_it_is(paths):
    """Its int8 or meshed form has steps of another kind, but the same guesses."""
    assert medusa_jax.load(*paths).measured.times["float32"].seconds(2, 1, 256) == 0.75
    for how in ({"quantize": "int8"}, {"mesh": "tensor=2"}):
        measured = medusa_jax.load(*paths, **how).measured
        assert (measured.times, measured.fastest) == ({}, None)
        assert measured.acceptance.at(0).rate_MPK.tolist() == RATES


def test_an_unknown_way_to_quantize_is_refused(stories260k):
    with pytest.raises(UserError, match="quantize is 'int4': choose from none, int8"):
        medusa_jax.load(str(stories260k), "none", quantize="int4")
