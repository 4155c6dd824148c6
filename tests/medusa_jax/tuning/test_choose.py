import pytest

from medusa_jax.tuning.choose import Outlook, best_size, choice

# 100, 150 and 125 tokens per second.
OUTLOOKS = {1: Outlook(1.0, 0.01), 4: Outlook(1.8, 0.012), 16: Outlook(2.5, 0.02)}


def test_the_fastest_is_chosen_when_nothing_is_compiled():
    assert best_size(OUTLOOKS, remaining=1000, compile_seconds=5.0) == 4


@pytest.mark.parametrize(("remaining", "expected"), [(2900, 1), (3100, 4)])
def test_compiling_must_be_repaid(remaining, expected):
    """Of a token's 10 ms the tree saves 3.33: a second of compiling takes 3000 tokens."""
    now = best_size(OUTLOOKS, remaining=remaining, ready={1}, compile_seconds=10.0, current=1)
    assert now == expected


@pytest.mark.parametrize(("remaining", "expected"), [(17, 1), (21, 4)])
def test_leaving_a_tree_costs_the_draft_that_is_lost(remaining, expected):
    """Half a millisecond of ten is saved per token, and half a step of 19 ms is lost."""
    outlooks = {1: Outlook(1.0, 0.01), 4: Outlook(2.0, 0.019)}
    assert best_size(outlooks, remaining=remaining, ready={1, 4}, current=1) == expected


def test_of_equals_the_smaller_tree_is_chosen():
    assert best_size({2: Outlook(2.0, 0.02), 1: Outlook(1.0, 0.01)}, remaining=10) == 1


def test_the_line_says_what_and_why():
    text = str(choice(4, OUTLOOKS, "measured"))
    assert (
        text == "tree auto: 4 nodes, 1.8 tokens per step expected, 1.5x plain decoding (measured)"
    )
    assert "plain decoding" in str(choice(1, OUTLOOKS, "estimated"))
