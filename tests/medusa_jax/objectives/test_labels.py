"""Labels against loops over single positions."""

import hypothesis
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from medusa_jax.objectives.labels import (
    IGNORE,
    OUTSIDE,
    count_labels,
    shift_labels,
    to_draft_vocabulary,
)
from tests.medusa_jax.packed import quick_jit

jitted_labels = quick_jit(shift_labels, static_argnums=3)


@st.composite
def packed_rows(draw):
    """(token, is_label, segment), each [2, T]; documents of any length, and padding after them."""
    length = draw(st.sampled_from([1, 6, 13]))
    segment = np.zeros((2, length), np.int32)
    for row in segment:
        sizes = draw(st.lists(st.integers(1, 6), max_size=5))
        documents = np.repeat(np.arange(1, len(sizes) + 1), sizes)[:length]
        row[: len(documents)] = documents
    flags = st.lists(st.booleans(), min_size=2 * length, max_size=2 * length)
    is_label = np.array(draw(flags)).reshape(2, length)
    return np.arange(2 * length, dtype=np.int32).reshape(2, length), is_label, segment


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(packed_rows(), st.sampled_from([0, 1, 5]))
def test_labels_of_every_position_and_head(rows, num_heads):
    token, is_label, segment = rows
    labels = np.asarray(jitted_labels(token, is_label, segment, num_heads))
    assert labels.dtype == np.int32
    assert labels.shape == (*token.shape, num_heads + 1)
    length = token.shape[1]
    for b, t, k in np.ndindex(labels.shape):
        ahead = t + k + 1  # k = 0 is the base head, which predicts the next token
        is_there = ahead < length and is_label[b, ahead] and segment[b, t] > 0
        wanted = token[b, ahead] if is_there and segment[b, ahead] == segment[b, t] else IGNORE
        assert labels[b, t, k] == wanted


def test_an_empty_row_has_no_labels():
    empty = np.zeros((1, 0), np.int32)
    assert shift_labels(empty, empty.astype(bool), empty, 3).shape == (1, 0, 4)


def test_draft_ids_are_places_in_the_token_map():
    labels = np.array([[7, 7], [2, 2], [5, 5], [0, IGNORE], [IGNORE, 0]], np.int32)
    out = to_draft_vocabulary(jnp.asarray(labels), np.array([5, 2, 0], np.int32), 8)
    assert out.dtype == jnp.int32
    wanted = [[7, OUTSIDE], [2, 1], [5, 0], [0, IGNORE], [IGNORE, 2]]
    np.testing.assert_array_equal(out, wanted)


def test_labels_are_counted_per_head():
    labels = np.full((2, 3, 4), IGNORE, np.int32)
    labels[:, :, 1] = OUTSIDE
    labels[0, :, 2] = [0, 5, OUTSIDE]
    labels[:, :, 3] = 7
    count_J = count_labels(jnp.asarray(labels))
    assert count_J.dtype == jnp.float32
    np.testing.assert_array_equal(count_J, [0, 0, 2, 6])
