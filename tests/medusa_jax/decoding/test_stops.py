"""Texts that end an answer, against searches that look at every character."""

import hypothesis
import hypothesis.strategies as st
import pytest

from medusa_jax.decoding.stops import find_stop, held_back, tokens_before

TEXTS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


@hypothesis.given(TEXTS, STOPS)
def test_the_first_stop_wins(text, stops):
    starts = [i for i in range(len(text)) if any(text[i:].startswith(stop) for stop in stops)]
    assert find_stop(text, stops) == (starts[0] if starts else None)


@hypothesis.given(TEXTS, STOPS)
def test_what_is_shown_is_never_taken_back(text, stops):
    """Feeding character by character shows all of a text before its stop, and nothing of it."""
    shown = 0
    for end in range(len(text) + 1):
        cut = find_stop(text[:end], stops)
        if cut is not None:
            assert shown <= cut
            return
        shown = max(shown, end - held_back(text[:end], stops))
    assert len(text) - shown < max(map(len, stops), default=1)


class Pieces:
    """A tokenizer of three tokens, of 1, 2 and 3 characters, and one without any."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(["a", "bc", "def", ""][i] for i in ids)


@pytest.mark.parametrize(
    ("end", "count"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 4), (7, 5)]
)
def test_tokens_that_reach_into_the_stop_are_left_out(end, count):
    assert tokens_before(Pieces(), [0, 1, 2, 3, 0], end) == count
