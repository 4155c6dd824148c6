"""The program that is planned is the one that runs: its cache has as many slots."""

import dataclasses

import jax
import pytest

from infer.planning.abstract import decode_program
from tests.infer.planning.wishes import wish


@pytest.mark.parametrize(("context", "slots"), [(1000, 1024), (1100, 1536), (3100, 4096)])
def test_slots_are_those_of_a_bucket(context, slots):
    """Room for the tokens and a draft after them."""
    wanted = dataclasses.replace(wish("mc_sim_7b_63:16", "tpu"), max_context=context)
    _, state, *_ = decode_program(wanted, jax.devices()[0]).arguments
    assert state.cache.capacity == slots
