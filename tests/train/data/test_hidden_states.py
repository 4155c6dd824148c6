"""Cached hidden states against the backbone on every conversation alone."""

import dataclasses

import jax
import numpy as np
import pytest

from medusa_jax.chat import Example
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from medusa_jax.objectives.labels import IGNORE
from medusa_jax.sharding import param_shardings
from tests.medusa_jax.tiny import _WIDTH, _forward, tiny_lm
from tests.train.small_disk import largest_file
from train.data import hidden_states

M = 3


def conversations():
    """Of two padded widths; the second one's labels start late, the third has its last token's."""
    rng = np.random.default_rng(0)
    out = []
    for length, first in ((20, 0), (70, 50), (9, 8), (30, 12)):
        is_label = (np.arange(length) >= first) & (rng.random(length) < 0.8)
        is_label[-1] = True
        out.append(Example(rng.integers(0, 24, length).astype(np.int32), is_label))
    return out


@pytest.fixture(scope="module")
def lm():
    return tiny_lm("chain:0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def states(lm, folder):
    return hidden_states.compute(lm, conversations(), M, folder, "test")


def expected_positions(lm):
    """(hidden, next tokens, labels) of every position from the first with a label on, in loops."""
    for example in sorted(conversations(), key=lambda example: len(example.token_T)):
        token, is_label = example.token_T, example.is_label_T
        padded = np.zeros((1, _WIDTH), np.int32)
        padded[0, : len(token)] = token
        hidden = np.asarray(_forward(lm.config, lm.params, padded))[0]
        seen = False
        for t in range(len(token)):
            ahead = range(t + 1, t + M + 2)
            labels = [token[a] if a < len(token) and is_label[a] else IGNORE for a in ahead]
            seen = seen or max(labels) >= 0
            if seen:
                yield hidden[t], token[t + 1 : t + 1 + M].tolist(), labels


def all_of(states):
    return np.concatenate(states.hidden_S)


def test_positions_are_those_of_every_conversation_alone(lm, states):
    expected = list(expected_positions(lm))
    hidden_TD = all_of(states)
    assert hidden_TD.dtype == np.float16
    assert all(isinstance(shard, np.memmap) for shard in states.hidden_S)
    assert len(states.hidden_S) == 2
    np.testing.assert_allclose(hidden_TD, [x for x, _, _ in expected], rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(states.labels_TJ, [labels for _, _, labels in expected])
    for found_M, (_, wanted, _) in zip(states.next_TM, expected, strict=True):
        assert found_M[: len(wanted)].tolist() == wanted
    used = [i for i, (_, _, labels) in enumerate(expected) if max(labels) >= 0]
    np.testing.assert_array_equal(states.used, used)
    assert len(used) < len(expected)


def test_a_batch_brings_the_states_of_the_following_positions(states):
    index = np.array([[0, 5], [len(states.used) - 1, 2]])
    batch = states.batch(index, M)
    assert batch["hidden"].shape == (2, 2, M + 1, 16)
    for place in np.ndindex(2, 2):
        position = states.used[index[place]]
        window = np.minimum(np.arange(position, position + M + 1), len(states.next_TM) - 1)
        np.testing.assert_array_equal(batch["hidden"][place], all_of(states)[window])
        np.testing.assert_array_equal(batch["labels"][place], states.labels_TJ[position])
        np.testing.assert_array_equal(batch["next"][place], states.next_TM[position])
    np.testing.assert_array_equal(states.batch(index, 0)["hidden"], batch["hidden"][:, :, :1])


def test_a_mesh_computes_the_same(lm, states, tmp_path):
    mesh = make_mesh(2, 2, 2)
    spread = jax.tree.map(jax.device_put, lm.params, param_shardings(mesh, lm.params))
    other = dataclasses.replace(lm, params=spread)
    found = hidden_states.compute(other, conversations(), M, tmp_path, "test")
    np.testing.assert_allclose(all_of(found), all_of(states), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(found.labels_TJ, states.labels_TJ)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(lm, tmp_path):
    with (
        largest_file(1000),
        pytest.raises(UserError, match="cannot write hidden states to") as error,
    ):
        hidden_states.compute(lm, conversations(), M, tmp_path, "test")
    assert "File too large" in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write hidden states to"):
        hidden_states.compute(lm, conversations(), M, tmp_path / "file", "test")


def test_what_is_on_disk_is_not_computed_again(lm, folder, states, monkeypatch):
    def fail(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(hidden_states, "_run", fail)
    again = hidden_states.compute(lm, conversations(), M, folder, "test")
    jax.tree.map(np.testing.assert_array_equal, *map(vars, (again, states)))
    changed = [Example(x.token_T, x.is_label_T & (x.token_T > 3)) for x in conversations()]
    other = dataclasses.replace(lm, params=jax.tree.map(lambda x: x + 1, lm.params))
    for model, examples, num_heads in (
        (lm, changed, M),
        (other, conversations(), M),
        (lm, conversations(), M + 1),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            hidden_states.compute(model, examples, num_heads, folder, "test")
