"""The Medusa-1 trainer: it learns the right shift, resumes bit for bit, and stops on NaN."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax import UserError
from medusa_jax.config import MedusaConfig
from medusa_jax.losses import IGNORE, shift_labels
from medusa_jax.nn.heads import MedusaHeads, init_heads
from tests.medusa_jax.tiny import last_hidden, tiny_lm
from train import hidden_states
from train.chat import Example
from train.hidden_states import HiddenStates
from train.medusa1 import draft_vocabulary
from train.trainer import Frozen, Run, TrainConfig, batch_indices

PERIOD, WIDTH, HEADS = 7, 16, 3
CONFIG = TrainConfig(
    steps=60,
    batch_size=32,
    learning_rate=0.02,
    warmup_steps=5,
    weight_decay=0.0,
    head_decay=0.8,
    log_every=5,
    save_every=20,
    seed=0,
)
HEADS_CONFIG = MedusaConfig(num_heads=HEADS, hidden_size=WIDTH, vocab_size=PERIOD)


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax mixes integers and floats by itself."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def setup():
    """Tokens that repeat 0..6; the hidden state at t knows only the token at t."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(PERIOD, WIDTH)).astype(np.float32)
    tokens = (np.arange(400) % PERIOD).astype(np.int32)
    hidden = embedding[tokens] + rng.normal(size=(400, WIDTH)).astype(np.float32) * 0.01
    labels = shift_labels(tokens, np.ones(400, bool), HEADS)
    lm_head = jnp.asarray(np.roll(embedding, 1, axis=0) * 2)
    data = HiddenStates(hidden.astype(np.float16), np.roll(tokens, -1), labels)
    return (
        data,
        Frozen(jnp.asarray(embedding), lm_head),
        init_heads(HEADS_CONFIG, lm_head, jnp.float32),
    )


def finish(setup, workdir, steps=CONFIG.steps):
    """Trains up to `steps` of the full schedule, as a run does that is killed there."""
    data, frozen, params = setup
    run = Run(CONFIG, HEADS_CONFIG, frozen, workdir)
    state = run.restore(params)
    return run, run.train(state, data, data, until=steps)


def test_heads_learn_the_token_at_their_own_distance(setup, tmp_path):
    data, frozen, _ = setup
    run, params = finish(setup, tmp_path)
    metrics = run.evaluate(params, data)
    assert min(metrics["top1"]) > 0.95
    logits = MedusaHeads(HEADS_CONFIG).apply(
        {"params": params}, jnp.asarray(data.hidden_ND[:20], jnp.float32), frozen.lm_head_VD
    )
    expected = (np.arange(20)[:, None] + np.arange(2, 2 + HEADS)[None]) % PERIOD
    np.testing.assert_array_equal(np.argmax(logits, axis=-1), expected)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[0]["loss"] > rows[-1]["loss"]
    assert len(rows[-1]["head_top5"]) == HEADS
    assert "held_out" in rows[-1]


def test_root_conditioned_heads_use_the_next_token(setup, tmp_path):
    """With hidden states of noise, all that predicts the labels is the token at t + 1."""
    data, frozen, _ = setup
    noise = np.random.default_rng(1).normal(size=data.hidden_ND.shape).astype(np.float16)
    config = dataclasses.replace(HEADS_CONFIG, root_conditioned=True)
    run = Run(CONFIG, config, frozen, tmp_path)
    state = run.restore(init_heads(config, frozen.lm_head_VD, jnp.float32))
    data = dataclasses.replace(data, hidden_ND=noise)
    assert min(run.evaluate(run.train(state, data, data), data)["top1"]) > 0.95


def test_an_interrupted_run_ends_bit_for_bit_the_same(setup, tmp_path):
    _, straight = finish(setup, tmp_path / "a")
    finish(setup, tmp_path / "b", steps=33)
    _, resumed = finish(setup, tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_nan_stops_with_a_clear_message(setup, tmp_path):
    data, frozen, params = setup
    broken = dataclasses.replace(data, hidden_ND=np.full_like(data.hidden_ND, np.inf))
    run = Run(CONFIG, HEADS_CONFIG, frozen, tmp_path)
    with pytest.raises(UserError, match=r"the loss is .* at step 5"):
        run.train(run.restore(params), broken, data)


def test_checkpoint_of_other_heads_is_refused(setup, tmp_path):
    finish(setup, tmp_path, steps=20)
    other = MedusaConfig(num_heads=2, hidden_size=WIDTH, vocab_size=PERIOD)
    with pytest.raises(UserError, match="other heads"):
        Run(CONFIG, other, setup[1], tmp_path)


def test_every_epoch_visits_other_positions_in_another_order():
    first = [batch_indices(CONFIG, 100, step) for step in range(3)]
    second = [batch_indices(CONFIG, 100, step) for step in range(3, 6)]
    assert len(np.unique(np.concatenate(first))) == 96
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    np.testing.assert_array_equal(first[1], batch_indices(CONFIG, 100, 1))


def test_draft_vocabulary_holds_the_most_frequent_labels():
    labels = np.asarray([[5, 5], [9, 5], [9, IGNORE], [2, IGNORE]], np.int32)
    assert draft_vocabulary(labels, 2).tolist() == [5, 9]
    assert draft_vocabulary(labels, 0) is None


def test_hidden_states_are_the_networks_and_are_kept(tmp_path):
    lm = tiny_lm()
    rng = np.random.default_rng(0)
    examples = []
    for length in (5, 70, 9):
        mask = np.arange(length) >= 3
        examples.append(Example(rng.integers(0, 24, length).astype(np.int32), mask))
    states = hidden_states.compute(lm, examples, 2, tmp_path, "x")
    expected = []
    for example in sorted(examples, key=lambda e: len(e.token_T)):
        labels = shift_labels(example.token_T, example.is_label_T, 2)
        used = (labels != IGNORE).any(-1)
        hidden = lm_hidden(lm, example.token_T)
        following = np.append(example.token_T[1:], 0)
        expected.append((hidden[used], labels[used], following[used]))
    np.testing.assert_array_equal(states.labels_NM, np.concatenate([e[1] for e in expected]))
    np.testing.assert_array_equal(states.next_N, np.concatenate([e[2] for e in expected]))
    np.testing.assert_allclose(
        states.hidden_ND, np.concatenate([e[0] for e in expected]), rtol=2e-3, atol=2e-3
    )
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = hidden_states.compute(lm, examples, 2, tmp_path, "x")
    np.testing.assert_array_equal(again.hidden_ND, states.hidden_ND)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}


def lm_hidden(lm, tokens):
    return np.stack([last_hidden(lm, tokens[: i + 1].tolist()) for i in range(len(tokens))])
