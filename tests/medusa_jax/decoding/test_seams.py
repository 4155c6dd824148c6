"""A rule and a drafter that the library does not know, a file each, decode in the same loop."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.decoding.programs import abstract
from medusa_jax.decoding.runtime import make_request, make_runtime
from tests.medusa_jax.decoding.batches import PROMPTS, decoded, rows
from tests.medusa_jax.decoding.toy_drafter import Table
from tests.medusa_jax.decoding.toy_rule import Favourite
from tests.medusa_jax.tiny import last_hidden, tiny_lm

FAVOURITES = [3, 17, 11]


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


def slow_text(lm, prompt, favourite, count):
    """The rule read literally, token by token, in numpy."""
    out = []
    for _ in range(count):
        logits = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, prompt + out)
        top = np.argsort(-logits, kind="stable")[:4]
        out.append(int(top[np.argmin(np.abs(top - favourite))]))
    return out


@pytest.mark.parametrize("tree", ["chain:0", "mc_sim_7b_63"])
def test_a_toy_rule_decodes_the_same_text_with_any_tree(lm, tree):
    numbers = jnp.asarray(FAVOURITES, jnp.int32)
    state = decoded(lm.with_tree(tree), PROMPTS, [12] * 3, rule=Favourite(4), rule_numbers=numbers)
    expected = [slow_text(lm, p, f, 12) for p, f in zip(PROMPTS, FAVOURITES, strict=True)]
    assert rows(state) == expected


def with_table(lm, texts):
    """A runtime whose drafter has seen these texts."""
    table = np.zeros((lm.config.vocab_size, 2), np.int32)
    for text in texts:
        for before, after in itertools.pairwise(text):
            if after not in table[before]:
                table[before] = [after, table[before][0]]
    runtime = make_runtime(lm.with_tree("chain:0"))
    params = runtime.params | {"drafter": jnp.asarray(table)}
    decoder = dataclasses.replace(runtime.decoder, drafter=Table())
    return dataclasses.replace(runtime, decoder=decoder, params=params, shapes=abstract(params))


def test_a_toy_drafter_saves_steps_and_changes_no_token(lm):
    plain = decoded(lm.with_tree("chain:0"), PROMPTS, [30] * 3)
    runtime = with_table(lm, rows(plain))
    state = runtime.advance(runtime.start(make_request([30] * 3), PROMPTS)).state
    assert rows(state) == rows(plain)
    assert (state.num_steps_B < plain.num_steps_B).all()


def test_both_together(lm):
    texts = [slow_text(lm, p, f, 20) for p, f in zip(PROMPTS, FAVOURITES, strict=True)]
    runtime = with_table(lm, texts)
    decoder = dataclasses.replace(runtime.decoder, rule=Favourite(4))
    runtime = dataclasses.replace(runtime, decoder=decoder)
    request = make_request([20] * 3, rule_numbers=np.asarray(FAVOURITES, np.int32))
    state = runtime.advance(runtime.start(request, PROMPTS)).state
    assert rows(state) == texts
    assert int(jax.device_get(state.num_steps_B).sum()) < 60
