import pytest

from infer.bench.checkpoint import _different, parse_trees
from infer.bench.contenders import Answer
from medusa_jax import UserError


def test_a_bare_number_repeats_the_name_before_it():
    text = "chain:1, mc_sim_7b_63:2,:4,:64,zephyr_stage2,:8,chain:1"
    assert parse_trees(text) == [
        *("chain:1", "mc_sim_7b_63:2", "mc_sim_7b_63:4", "mc_sim_7b_63:64"),
        *("zephyr_stage2", "zephyr_stage2:8"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (":4", "needs a tree's name in front of it"),
        ("", "unknown tree ''"),
        ("mc_sim_7b_63:2,:65", "whole number from 1 to 64"),
        ("mc_sim_7b_63:2,", "unknown tree ''"),
    ],
)
def test_bad_trees_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_trees(text)


def test_a_prompt_differs_when_any_round_does():
    def rounds(*rows):
        return [[Answer(token_ids, 1, 1, 1.0, 1.0) for token_ids in row] for row in rows]

    reference = rounds([[1, 2], [3]], [[1, 2], [3]])
    assert _different(reference, reference) == []
    assert _different(rounds([[1, 2], [3]], [[1, 2], [3, 4]]), reference) == [1]
