"""Where two answers part, on a small model whose logits are computed here in another way."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from infer.bench.near_ties import parting
from medusa_jax.decoding.noise import gumbel
from medusa_jax.decoding.runtime import make_request
from tests.medusa_jax.tiny import last_hidden, tiny_lm

PROMPT, SAME = [3, 1, 4, 1, 5], [9, 2, 6]


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def scores(lm, temperature, seed, number):
    """Of all tokens that may follow, in logits."""
    ids = PROMPT + SAME
    logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, ids)
    key_12 = make_request([1], seed=seed, numbers=[number]).key_B2
    noise_V = gumbel(key_12, jnp.full((1, 1), len(ids), jnp.int32), jnp.arange(len(logits_V)))
    return logits_V + temperature * np.asarray(noise_V)[0, 0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_lead_is_that_of_the_two_tokens(lm, temperature):
    where = {"temperature": temperature, "seed": 7, "number": 2}
    score_V = scores(lm, temperature, 7, 2)
    found = parting(lm, PROMPT, ([*SAME, 5, 1], [*SAME, 8, 1]), **where)
    assert found["position"] == 3
    assert found["lead"] == pytest.approx(float(score_V[5] - score_V[8]), abs=1e-4)
    assert not found["near_tie"]
    assert parting(lm, PROMPT, ([*SAME, 5], [*SAME, 5]), **where) is None


def test_a_near_tie_is_one(lm):
    """Two tokens whose rows in the LM head are the same, without noise."""
    weight_VD = lm.params["lm_head"]["weight"]
    params = lm.params | {"lm_head": {"weight": weight_VD.at[8].set(weight_VD[5])}}
    texts = ([*SAME, 5], [*SAME, 8])
    tied = dataclasses.replace(lm, params=params)
    found = parting(tied, PROMPT, texts, temperature=0.0, seed=0, number=0)
    assert found == {"position": 3, "lead": pytest.approx(0, abs=1e-6), "near_tie": True}


def test_an_answer_that_goes_on_is_not_excused(lm):
    found = parting(lm, PROMPT, (SAME, [*SAME, 5]), temperature=1.0, seed=0, number=0)
    assert found == {"position": 3, "lead": None, "near_tie": False}
