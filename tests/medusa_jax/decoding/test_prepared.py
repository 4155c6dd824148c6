"""Runtimes that are remembered: for the very same arrays, and as long as the model lives."""

import dataclasses
import gc
import weakref

import jax
import numpy as np

from medusa_jax.decoding import prepared as module
from medusa_jax.decoding.prepared import prepared
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.rules.typical import Typical
from tests.medusa_jax.tiny import tiny_lm


def test_the_same_question_gives_the_same_runtime():
    lm = tiny_lm("chain:2")
    runtime = prepared(lm, lm.tree, Greedy(), False)
    assert prepared(lm, lm.resolve_tree("chain:2"), Greedy(), False) is runtime
    others = [
        (lm.resolve_tree("chain:1"), Greedy(), False),
        (lm.tree, Typical(), False),
        (lm.tree, Greedy(), True),
    ]
    for tree, rule, logprobs in others:
        other = prepared(lm, tree, rule, logprobs)
        assert other is not runtime
        assert (other.decoder.rule, other.decoder.logprobs) == (rule, logprobs)
        assert other.decoder.drafter.max_depth == tree.max_depth


def test_replaced_parameters_are_seen():
    """Parameters are a dict, which somebody may change in place."""
    lm = tiny_lm("chain:2")
    before = prepared(lm, lm.tree, Greedy(), False)
    lm.params["embed"] = jax.tree.map(lambda x: x * 2, lm.params["embed"])
    after = prepared(lm, lm.tree, Greedy(), False)
    assert after is not before
    changed = after.params["backbone"]["embed"]["weight"]
    np.testing.assert_array_equal(changed, before.params["backbone"]["embed"]["weight"] * 2)


def test_arrays_that_can_change_their_values_are_never_remembered():
    lm = tiny_lm("chain:0")
    on_host = dataclasses.replace(lm, params=jax.tree.map(np.array, lm.params))
    first = prepared(on_host, lm.tree, Greedy(), False)
    on_host.params["embed"]["weight"][:] = 3
    second = prepared(on_host, lm.tree, Greedy(), False)
    assert second is not first
    np.testing.assert_array_equal(second.params["backbone"]["embed"]["weight"], 3)


def test_nothing_outlives_the_model():
    lm = tiny_lm("chain:2")
    runtime = weakref.ref(prepared(lm, lm.tree, Greedy(), False))
    assert lm in module._PREPARED
    del lm
    gc.collect()
    assert runtime() is None
