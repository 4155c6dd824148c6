"""Padded batches of conversations: each is in one of them, whole, and shapes are few."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from medusa_jax.chat import Example
from train.data.padded import batches_of_like_length, following_tokens, pad

TOKENS = 512


def examples_of(lengths):
    rng = np.random.default_rng(len(lengths))
    return [Example(rng.integers(1, 99, n).astype(np.int32), rng.random(n) < 0.5) for n in lengths]


def contents(examples):
    return sorted((x.token_T.tobytes(), x.is_label_T.tobytes()) for x in examples)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.lists(st.integers(1, 700), max_size=40))
def test_every_conversation_is_in_one_batch(lengths):
    examples = examples_of(lengths)
    found, shapes = [], set()
    for batch in batches_of_like_length(examples, TOKENS):
        padded = pad(batch, TOKENS)
        rows, width = padded["token"].shape
        assert rows * width <= max(TOKENS, width)
        assert {x.shape for x in padded.values()} == {(rows, width)}
        longest = max(len(x.token_T) for x in batch)
        assert longest <= width < max(1.5 * longest + 1, 65)
        shapes.add((rows, width))
        for row, length in enumerate(padded["segment"].sum(axis=1)):
            assert (padded["segment"][row, :length] == 1).all()
            assert not padded["token"][row, length:].any()
            assert not padded["is_label"][row, length:].any()
            if length:
                found.append(
                    Example(padded["token"][row, :length], padded["is_label"][row, :length])
                )
    assert contents(found) == contents(examples)
    assert len(shapes) <= 8 + 4 * 3  # widths, times what the rows of a last batch may be


def test_widths_are_powers_of_two_and_halfway_between():
    widths = [
        pad(examples_of([n]), TOKENS)["token"].shape[1] for n in (1, 64, 65, 96, 97, 129, 193)
    ]
    assert widths == [64, 64, 96, 96, 128, 192, 256]


def test_tokens_that_follow():
    token_BT = np.array([[1, 2, 3], [4, 5, 6]])
    following_BTM = following_tokens(token_BT, 2)
    assert following_BTM[:, 0].tolist() == [[2, 3], [5, 6]]
    assert following_BTM[:, 1, 0].tolist() == [3, 6]
    np.testing.assert_array_equal(following_tokens(token_BT[0], 2), following_BTM[0])
