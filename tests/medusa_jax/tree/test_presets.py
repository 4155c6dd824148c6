"""Trees by name, by chain and by file, and what is refused."""

import json

import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.tree.dynamic import DynamicTree, heads_used
from medusa_jax.tree.presets import load_any_tree, load_fitting_tree, load_tree, preset_names
from tests.medusa_jax.leaf_paths import leaf_paths
from tests.medusa_jax.tree.test_build import GOLDEN, rows


def test_presets_are_the_nine_published_trees_and_that_of_the_shipped_heads():
    assert set(preset_names()) == {*GOLDEN, "smollm2_135m_63"}
    assert load_tree("smollm2_135m_63", num_heads=4).R == 64


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_chain(depth):
    tree = load_tree(f"chain:{depth}", num_heads=depth)
    assert (tree.R, tree.max_depth, tree.top_k) == (depth + 1, depth, 1)
    assert leaf_paths(tree) == [list(range(depth + 1))]
    assert (tree.mask_RR == np.tri(depth + 1, dtype=bool)).all()


@pytest.mark.parametrize("name", GOLDEN)
def test_every_prefix_of_a_preset_is_a_tree_of_that_size(name):
    assert [load_tree(f"{name}:{n}").R for n in range(1, 65)] == list(range(1, 65))


def test_prefix_keeps_the_greedy_order():
    tree = load_tree("mc_sim_7b_63:5")  # [0], [0, 0], [1], [0, 1]
    assert rows(tree) == [(0, 1, 4), (0, 1, 3), (0, 2)]


@pytest.mark.parametrize("wrap", [lambda paths: paths, lambda paths: {"paths": paths}])
def test_file(tmp_path, wrap):
    file = tmp_path / "mine"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text(json.dumps(wrap([[0], [11], [11, 3]])), encoding=encoding)
        tree = load_tree(str(file), num_heads=2)
        assert tree.rank_R.tolist() == [0, 0, 11, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[0],\n [0, 0],\n [1 2]]", "not valid JSON, line 3 column 5"),
        ("", "not valid JSON, line 1 column 1"),
        ("7", "write a list of paths"),
        ('{"tree": []}', "write a list of paths"),
        ("[[0], [1, 0]]", r"path \[1, 0\] has no parent: add \[1\]"),
        ("[[0], [null]]", r"path 2 is \[None\]"),
        ("[" * 100_000, "not a JSON list of paths"),
    ],
)
def test_malformed_file_is_named(tmp_path, text, message):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_tree(str(file))
    assert str(error.value).startswith(f"tree {file}: ")
    assert "\n" not in str(error.value)


def test_file_of_other_encoding_is_refused(tmp_path):
    file = tmp_path / "bad.json"
    file.write_bytes(b"\xff\xfe[")
    with pytest.raises(UserError, match="not a JSON list of paths"):
        load_tree(str(file))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mc_sim_7b", "unknown tree 'mc_sim_7b', did you mean mc_sim_7b_63.*zephyr_stage2"),
        ("qqq", "unknown tree 'qqq'; choose mc_sim_7b_63"),
        ("", "unknown tree ''; choose"),
        ("chain", "K in chain:K is a whole number from 0 to 999"),
        ("chain:-1", "K in chain:K"),
        ("chain:1000", "K in chain:K"),
        ("zephyr_stage2:0", "N in zephyr_stage2:N is a whole number from 1 to 64"),
        ("zephyr_stage2:65", "N in zephyr_stage2:N"),
        ("zephyr_stage2:", "N in zephyr_stage2:N"),
        ("none/such.json", "cannot read the file"),
    ],
)
def test_invalid_spec_is_refused(spec, message):
    with pytest.raises(UserError, match=message):
        load_tree(spec)


def test_tree_deeper_than_the_heads_is_refused():
    with pytest.raises(UserError, match=r"chain:5 needs 5 heads, the model has 3: .*chain:3"):
        load_tree("chain:5", num_heads=3)
    assert load_tree("mc_sim_7b_63", num_heads=4).max_depth == 4


@pytest.mark.parametrize(("heads", "tokens"), [(4, 2**31), (3, 2**31), (1, 2**31), (4, 2), (0, 5)])
def test_the_part_of_a_tree_that_heads_can_fill(heads, tokens):
    whole = load_tree("mc_sim_7b_63").paths()
    expected = [path for path in whole if len(path) <= heads and all(r < tokens for r in path)]
    assert load_fitting_tree("mc_sim_7b_63", heads, tokens).paths() == expected


def test_decoding_takes_dynamic_trees_and_all_others():
    assert load_any_tree("dynamic:8", num_heads=4) == DynamicTree(8)
    assert load_any_tree("dynamic:1").R == 1
    assert load_any_tree("chain:2", num_heads=4).R == 3
    with pytest.raises(UserError, match="needs 7 heads, the model has 4"):
        load_any_tree("chain:7", num_heads=4)


@pytest.mark.parametrize("spec", ["dynamic", "dynamic:", "dynamic:0", "dynamic:x", "dynamic:513"])
def test_a_dynamic_tree_has_a_number_of_nodes(spec):
    with pytest.raises(UserError, match="N in dynamic:N is a whole number from 1 to 512"):
        load_any_tree(spec)


def test_where_a_fixed_tree_is_needed_a_dynamic_one_is_refused():
    with pytest.raises(UserError, match="dynamic:8 is chosen at every step of decoding"):
        load_tree("dynamic:8")


def test_heads_used():
    assert heads_used(load_tree("mc_sim_7b_63"), 5) == 4
    assert heads_used(DynamicTree(64), 5) == 5
    sizes = {2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 16: 4, 17: 5}
    assert {R: heads_used(DynamicTree(R), 9) for R in sizes} == sizes
