"""What a run reads: every position once an epoch, with the backbone's own hidden states."""

import dataclasses
import functools
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.objectives.labels import IGNORE
from tests.medusa_jax.packed import quick_jit
from tests.train.small_runs import make, write_data, write_model
from train.data import inputs
from train.data.epochs import steps_per_epoch
from train.data.pipeline import Splits, held_out_batches, load_data, train_batches

M, ROWS, T = 4, 2, 64


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def lm(model):
    return medusa_jax.load(model, "none", dtype="float32")


@pytest.fixture
def splits(lm, tmp_path) -> Splits:
    data = write_data(tmp_path / "data.jsonl", rows=12)
    return load_data(data, lm.tokenizer, seq_len=T, held_out=0.2, progress=False)


def settings_of(**changes):
    return make("model", "data", (1, 1, 1), batch_size=ROWS, seq_len=T, **changes)


def cached(splits, lm, tmp_path, **changes):
    settings = settings_of(objective="medusa1", hidden_states="cached", **changes)
    return settings, inputs.cached(settings, splits, lm, tmp_path, make_mesh(1, 1, 1))


@functools.partial(quick_jit, static_argnums=0)
def forward(llama: Llama, params, token_BT):
    length = token_BT.shape[1]
    position_BT = jnp.arange(length, dtype=jnp.int32)[None]
    return llama.apply({"params": params}, token_BT, position_BT, causal_mask(length))[0]


def positions_of(documents, lm) -> list[tuple[int, tuple[int, ...], np.ndarray]]:
    """Next token, labels and hidden states [t, D] from there on, one document at a time."""
    llama, found = Llama(lm.config, jnp.float32), []
    for i in range(len(documents)):
        token, is_label = documents[i]["token"], documents[i]["is_label"]
        hidden_TD = np.asarray(forward(llama, lm.params, token[None])[0])
        for t in range(len(token)):
            ahead = range(t + 1, t + 2 + M)
            labels = [int(token[a]) if a < len(token) and is_label[a] else IGNORE for a in ahead]
            if any(label != IGNORE for label in labels):
                found.append((int(token[t + 1]), tuple(labels), hidden_TD[t:]))
    return found


def test_an_epoch_of_cached_states_has_every_position_once(splits, lm, tmp_path):
    settings, data = cached(splits, lm, tmp_path)
    expected = positions_of(splits.train, lm)
    assert steps_per_epoch(settings, splits.train) == len(expected) / (ROWS * T)
    batches = [next(data.train) for _ in range(-(-len(expected) // (ROWS * T)))]
    hidden_TD = np.concatenate([b["hidden"].reshape(-1, 1, 32)[:, 0] for b in batches])
    labels_TJ = np.concatenate([b["labels"].reshape(-1, M + 1) for b in batches])
    next_T = np.concatenate([b["next"][..., 0].reshape(-1) for b in batches])
    assert batches[0]["hidden"].shape == (ROWS, T, 1, 32)

    first = slice(len(expected))
    rows = zip(next_T[first].tolist(), labels_TJ[first].tolist(), hidden_TD[first], strict=True)
    found = {tuple(x.tolist()): (n, tuple(labels)) for n, labels, x in rows}
    assert len(found) == len(expected)  # no position twice
    wanted_TD = np.stack([hidden[0] for *_, hidden in expected])
    for hidden_D, (following, labels) in found.items():
        distance_T = np.abs(wanted_TD - np.float32(hidden_D)).max(axis=-1)
        nearest = int(distance_T.argmin())
        assert distance_T[nearest] < 4e-3  # kept in float16
        assert expected[nearest][:2] == (following, labels)


def test_soft_labels_read_the_states_behind_each_position(splits, lm, tmp_path):
    _, data = cached(splits, lm, tmp_path, head_labels="distribution")
    batch = next(data.train)
    assert batch["hidden"].shape == (ROWS, T, 1 + M, 32)
    expected = positions_of(splits.train, lm)
    firsts_TD = np.stack([hidden[0] for *_, hidden in expected])
    for window_KD, labels in zip(
        np.float32(batch["hidden"]).reshape(-1, 1 + M, 32)[:9],
        batch["labels"].reshape(-1, M + 1)[:9].tolist(),
        strict=True,
    ):
        hidden_TD = expected[int(np.abs(firsts_TD - window_KD[0]).max(axis=-1).argmin())][2]
        for k, label in enumerate(labels[1:], 1):
            if label != IGNORE:
                np.testing.assert_allclose(window_KD[k], hidden_TD[k], atol=4e-3)


def test_held_out_data_that_is_not_measured_is_mentioned(splits, lm, tmp_path, monkeypatch, capsys):
    mesh = make_mesh(1, 1, 1)
    whole = inputs.packed(settings_of(), splits, mesh).held_out
    inputs.cached(settings_of(objective="medusa1"), splits, lm, tmp_path, mesh)
    assert len(whole) > 1
    assert "evaluations take" not in capsys.readouterr().err
    monkeypatch.setattr(inputs, "_MAX_HELD_OUT_BATCHES", 1)
    assert len(inputs.packed(settings_of(), splits, mesh).held_out) == 1
    assert "evaluations take 1 batches (2 x 64 tokens)" in capsys.readouterr().err
    small = dataclasses.replace(settings_of(objective="medusa1"), batch_size=1, seq_len=16)
    inputs.cached(small, splits, lm, tmp_path, mesh)
    assert "evaluations take 1 batches (1 x 16 tokens)" in capsys.readouterr().err


def test_cached_batches_resume_where_they_were(splits, lm, tmp_path):
    _, data = cached(splits, lm, tmp_path)
    for _ in range(3):
        next(data.train)
    state = data.train.get_state()
    expected = [next(data.train)["labels"] for _ in range(4)]
    _, again = cached(splits, lm, tmp_path)
    again.train.set_state(state)
    np.testing.assert_array_equal([next(again.train)["labels"] for _ in range(4)], expected)


def test_held_out_states_are_whole_and_filled_up_without_labels(splits, lm, tmp_path):
    _, data = cached(splits, lm, tmp_path)
    labels_TJ = np.concatenate([b["labels"].reshape(-1, M + 1) for b in data.held_out])
    expected = Counter(labels for _, labels, _ in positions_of(splits.held_out, lm))
    found = Counter(map(tuple, labels_TJ.tolist()))
    padding = found.pop((IGNORE,) * (M + 1))
    assert found == expected
    assert padding == -sum(expected.values()) % (ROWS * T) > 0


class _Short:
    """Documents whose only label is the second token: no head has anything to predict."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"token": np.asarray([1, index], np.int32), "is_label": np.asarray([False, True])}


def test_replies_too_short_to_learn_from_are_refused(splits, lm, tmp_path):
    short = dataclasses.replace(splits, train=_Short())
    with pytest.raises(UserError, match="data has no reply of two tokens or more"):
        cached(short, lm, tmp_path)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def documents_of(batch) -> frozenset[bytes]:
    """The tokens of every document in a packed batch."""
    segments = zip(batch["token"], batch["segment"], strict=True)
    return frozenset(
        row_T[segment_T == number].tobytes()
        for row_T, segment_T in segments
        for number in range(1, segment_T.max() + 1)
    )


def test_packed_batches_are_those_of_the_pipeline(splits, monkeypatch):
    settings = settings_of(objective="medusa1", seed=3)
    data = inputs.packed(settings, splits, make_mesh(1, 1, 1))
    shape = {"batch_size": ROWS, "seq_len": T}
    train = train_batches(splits.train, seed=3, **shape)
    assert all(same(next(data.train), next(train)) for _ in range(9))
    held_out = list(held_out_batches(splits.held_out, **shape))
    assert len(held_out) > 1
    assert all(same(a, b) for a, b in zip(data.held_out, held_out, strict=True))
    monkeypatch.setattr(inputs, "_MAX_HELD_OUT_BATCHES", len(held_out) - 1)
    some = inputs.packed(settings, splits, make_mesh(1, 1, 1)).held_out
    assert len(some) == len(held_out) - 1
    # Not those that come first in the file.
    assert not all(same(a, b) for a, b in zip(some, held_out, strict=False))
    known = {documents_of(batch) for batch in held_out}
    assert {documents_of(batch) for batch in some} != known
    whole = set().union(*known)
    assert set().union(*(documents_of(batch) for batch in some)) < whole


def test_nothing_is_held_out(lm, tmp_path):
    data = write_data(tmp_path / "data.jsonl", rows=6)
    splits = load_data(data, lm.tokenizer, seq_len=T, held_out=0.0, progress=False)
    assert inputs.packed(settings_of(), splits, make_mesh(1, 1, 1)).held_out == []
    assert cached(splits, lm, tmp_path)[1].held_out == []


@pytest.mark.parametrize("size", [1, 5, 12, 300])
def test_a_draft_vocabulary_is_that_of_the_most_frequent_labels(splits, size):
    count: Counter[int] = Counter()
    for i in range(len(splits.train)):
        document = splits.train[i]
        count.update(document["token"][document["is_label"]].tolist())
    ranked = sorted(count, key=lambda token: (-count[token], token))[:size]
    found = inputs.draft_vocabulary(splits.train, 264, size)
    assert found is not None
    assert found.dtype == np.int32
    assert found.tolist() == sorted(ranked)


def test_no_draft_vocabulary_stands_for_all_tokens(splits):
    assert inputs.draft_vocabulary(splits.train, 264, 0) is None


def test_a_bounded_evaluation_is_a_sample_of_short_and_long_documents(lm, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data.jsonl", rows=24)
    splits = load_data(data, lm.tokenizer, seq_len=T, held_out=0.5, progress=False)
    small = dataclasses.replace(settings_of(objective="medusa1"), batch_size=1, seq_len=8)
    mesh = make_mesh(1, 1, 1)
    whole = inputs.cached(small, splits, lm, tmp_path, mesh).held_out
    monkeypatch.setattr(inputs, "_MAX_HELD_OUT_BATCHES", len(whole) // 2)
    some = inputs.cached(small, splits, lm, tmp_path, mesh).held_out
    assert len(some) == len(whole) // 2
    every = np.concatenate([batch["hidden"][0, :, 0] for batch in whole])
    rows = np.concatenate([batch["hidden"][0, :, 0] for batch in some])
    places = [int((every == row).all(axis=-1).argmax()) for row in rows]  # the first alike
    assert max(places) > 0.9 * 8 * len(whole)  # the longest documents are last
