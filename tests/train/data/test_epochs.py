"""The steps of an epoch against the batches that a run really reads."""

import dataclasses

import numpy as np
import pytest

from configs import base
from medusa_jax.errors import UserError
from tests.train.data.samples import row
from train.data.epochs import describe_length, steps_per_epoch, with_steps
from train.data.packing import count_rows
from train.data.pipeline import Documents, load_data, train_batches
from train.recipe import make_settings
from train.settings import Settings

T = 64


def settings_of(**changes) -> Settings:
    config = base.get_config()
    config.update({"data": "x", "seq_len": T, "batch_size": 8, "steps": None, "epochs": 2.0})
    config.update(changes)
    return make_settings(config)


@pytest.fixture
def documents(make_file, tokenizer) -> Documents:
    rng = np.random.default_rng(0)
    rows = [row(f"q{i}", "x" * rng.integers(50), name=f"{i}_0") for i in range(700)]
    return load_data(make_file(rows), tokenizer, seq_len=T, held_out=0.0, progress=False).train


@pytest.mark.parametrize("epochs", [1.0, 2.0, 3.5])
def test_every_document_is_seen_as_often_as_the_epochs_say(documents, epochs):
    settings = settings_of(epochs=epochs)
    steps = with_steps(settings, steps_per_epoch(settings, documents)).num_steps
    batches = train_batches(documents, batch_size=8, seq_len=T, seed=settings.seed)
    seen = sum(int(next(batches)["segment"].max(axis=1).sum()) for _ in range(steps))
    assert seen == pytest.approx(epochs * len(documents), rel=0.02)
    # Recipes once counted one document to a row, and so went over the data too often.
    assert steps * 8 < 0.75 * epochs * len(documents)


def test_rows_are_those_that_packing_makes():
    rng = np.random.default_rng(1)
    for count, longest in ((1, 5), (40, 30), (900, 64), (900, 20)):
        lengths = rng.integers(1, longest + 1, count)
        bins = [[]]
        for length in lengths.tolist():
            fits = [b for b in bins[-1] if sum(b) + length <= T]
            if fits:
                fits[0].append(length)
            elif len(bins[-1]) < 64:
                bins[-1].append([length])
            else:
                bins.append([[length]])
        assert count_rows(lengths, T) == sum(map(len, bins))


@pytest.mark.parametrize("num_heads", [1, 4])
def test_cached_positions_are_those_with_a_label_for_any_head(documents, num_heads):
    settings = settings_of(
        hidden_states="cached", num_heads=num_heads, tree="chain:1", export_format="none"
    )
    found = 0
    for i in range(len(documents)):
        is_label = documents[i]["is_label"].tolist()
        found += sum(any(is_label[t + 1 : t + 2 + num_heads]) for t in range(len(is_label)))
    assert steps_per_epoch(settings, documents) == found / (8 * T)


@pytest.mark.parametrize("hidden_states", ["cached", "streamed"])
def test_data_without_a_reply_are_refused(documents, hidden_states):
    settings = settings_of(hidden_states=hidden_states, objective="medusa1")
    none = dataclasses.replace(documents, number_C=documents.number_C[:0])
    with pytest.raises(UserError, match="x has no reply: there is nothing to learn"):
        steps_per_epoch(settings, none)


def test_steps_are_left_alone_and_a_run_has_at_least_one():
    by_steps = settings_of(steps=7, epochs=None)
    assert with_steps(by_steps, 100.0) is by_steps
    with pytest.raises(UserError, match="more than 2147483647 steps"):
        with_steps(settings_of(epochs=1e12), 10.0)
    short = with_steps(settings_of(epochs=0.01), 10.0)
    assert (short.steps, short.epochs) == (1, 0.01)
    with pytest.raises(ValueError, match="call with_steps"):
        _ = settings_of().num_steps


def test_a_trace_beyond_the_computed_end_is_refused():
    settings = settings_of(profile="10:15")
    assert with_steps(settings, 7.5).num_steps == 15
    with pytest.raises(UserError, match="the run ends at step 14: choose earlier steps"):
        with_steps(settings, 7.0)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "2 epochs = 412 steps of 8 packed rows of 64 tokens"),
        ({"epochs": 1.0}, "1 epoch = 206 steps of 8 packed rows of 64 tokens"),
        ({"batch_size": 1}, "2 epochs = 412 steps of 1 packed row of 64 tokens"),
        (
            {"steps": 1030, "epochs": None},
            "1,030 steps of 8 packed rows of 64 tokens = 5 epochs of the training data",
        ),
        (
            {"steps": 206_000, "epochs": None},
            "206,000 steps of 8 packed rows of 64 tokens = 1,000 epochs of the training data",
        ),
        ({"hidden_states": "cached"}, "2 epochs = 412 steps of 512 hidden states"),
        (
            {"warmup_steps": 412},
            "2 epochs = 412 steps of 8 packed rows of 64 tokens\nthe learning rate never reaches "
            "its peak: config.warmup_steps is 412, for a run of 412 steps",
        ),
    ],
)
def test_the_length_of_a_run_in_words(changes, line):
    assert describe_length(with_steps(settings_of(**changes), 206.0), 206.0) == line
