import pytest

from infer.bench.trees import fitting_trees, grow_tree, parse_trees, shape_trees
from medusa_jax import UserError
from medusa_jax.config import MedusaConfig


def test_a_bare_number_repeats_the_name_before_it():
    text = "chain:1, mc_sim_7b_63:2,:4,:64,zephyr_stage2,:8,chain:1"
    assert parse_trees(text) == [
        *("chain:1", "mc_sim_7b_63:2", "mc_sim_7b_63:4", "mc_sim_7b_63:64"),
        *("zephyr_stage2", "zephyr_stage2:8"),
    ]
    again = parse_trees("zephyr_stage2:4,mc_sim_7b_63:2,zephyr_stage2:4,:8")
    assert again == ["zephyr_stage2:4", "mc_sim_7b_63:2", "zephyr_stage2:8"]


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


def test_trees_grow_from_8_to_128_nodes():
    trees = shape_trees(None, 5)
    assert [tree.R for tree in trees.values()] == [8, 16, 32, 64, 128]
    assert [tree.max_depth for tree in trees.values()] == [3, 3, 3, 4, 5]
    assert next(iter(trees)) == "mc_sim_7b_63:8"


def test_a_random_model_has_nothing_to_choose_by():
    with pytest.raises(UserError, match="name trees for a --shape"):
        shape_trees(["auto"], 5)


def test_own_trees_may_need_five_heads():
    assert [tree.R for tree in shape_trees(["chain:5", "chain:1"], 5).values()] == [6, 2]
    with pytest.raises(UserError, match="needs 6 heads"):
        shape_trees(["chain:6"], 5)


def test_grown_tree_takes_the_most_likely_nodes():
    # 0.6, then its child 0.6 * 0.48, then the second guess 0.3, whose order is 0.3 > 0.288.
    assert grow_tree(3, 5).paths() == [[0], [1]]
    assert grow_tree(4, 5).paths() == [[0], [1], [0, 0]]


def test_default_trees_are_those_that_the_heads_can_fill():
    def of(num_heads):
        return fitting_trees(None, MedusaConfig(num_heads, hidden_size=8, vocab_size=16))

    assert fitting_trees(None, None) == []
    assert of(1) == ["auto", "chain:1", "mc_sim_7b_63:2"]
    assert of(4)[-1] == "mc_sim_7b_63:64"
    assert fitting_trees(["chain:9"], None) == ["chain:9"]
