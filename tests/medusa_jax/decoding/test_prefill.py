"""Prompts that are run in chunks against prompts that are run whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import RopeConfig
from medusa_jax.decoding.engine import chunks
from medusa_jax.decoding.engine.chunks import Chunks
from medusa_jax.decoding.runtime import Clock, make_request, make_runtime
from tests.medusa_jax.tiny import last_hidden, tiny_lm

PROMPT = [1 + (7 * i + i // 5) % 23 for i in range(77)]
ROPES = {
    "default": RopeConfig(),
    # What a token's angle is depends on the length of the whole prompt.
    "dynamic": RopeConfig(kind="dynamic", factor=2.0, original_max_position=32),
}


def with_rope(rope):
    lm = tiny_lm("chain:0")
    return dataclasses.replace(lm, config=dataclasses.replace(lm.config, rope=ROPES[rope]))


def assert_same_rows(a, b):
    length = int(a.cache.length_B[0])
    assert length == int(b.cache.length_B[0])
    assert a.root_B.tolist() == b.root_B.tolist()
    np.testing.assert_allclose(a.hidden_BD, b.hidden_BD, rtol=1e-5, atol=3e-5)
    for (k, v), (k2, v2) in zip(a.cache.layers, b.cache.layers, strict=True):
        np.testing.assert_allclose(k[..., :length], k2[..., :length], rtol=1e-5, atol=3e-5)
        np.testing.assert_allclose(v[:, :, :length], v2[:, :, :length], rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("size", [16, 33, 76, 200])
def test_chunks_give_what_the_whole_prompt_gives(rope, size, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", size)
    runtime, clock, request = make_runtime(with_rope(rope)), Clock(), make_request([5])
    whole = runtime.prefill(clock, request, [PROMPT])
    part = Chunks(runtime, clock, PROMPT)
    calls = 0
    while part.remaining:
        part.advance()
        calls += 1
    assert calls == -(-len(PROMPT) // size)
    assert_same_rows(part.finish(request), whole)


@pytest.mark.parametrize("kept", [1, 31, 32, 76])
def test_rows_go_on_from_what_is_kept_of_others(kept):
    """The first tokens are those of another prompt, of which more was run."""
    runtime, clock, request = make_runtime(tiny_lm("chain:0")), Clock(), make_request([5])
    other = runtime.prefill(clock, request, [[*PROMPT[:kept], 9, 9, 9]])
    part = Chunks(runtime, clock, PROMPT, other.cache, kept)
    assert part.remaining == len(PROMPT) - kept
    part.advance()
    rows = part.finish(request)
    assert_same_rows(rows, runtime.prefill(clock, request, [PROMPT]))
    assert not any(x.is_deleted() for x in jax.tree.leaves(other.cache))
    np.testing.assert_allclose(rows.hidden_BD[0], last_hidden(tiny_lm(), PROMPT), atol=1e-4)


def test_the_first_token_is_chosen_by_the_request_of_each_sample():
    """One run of a prompt, and roots for several requests; with a bias each has its own."""
    lm = tiny_lm("chain:0")
    runtime, clock = make_runtime(lm), Clock()
    bias_BV = np.zeros((1, lm.config.vocab_size), np.float32)
    bias_BV[0, 7] = 100
    part = Chunks(runtime, clock, PROMPT)
    while part.remaining:
        part.advance()
    biased = part.finish(make_request([5], bias_BV=bias_BV))
    assert biased.root_B.tolist() == [7]
    plain = part.finish(make_request([5]))
    expected = jnp.argmax(lm.params["lm_head"]["weight"] @ last_hidden(lm, PROMPT))
    assert plain.root_B.tolist() == [int(expected)]
