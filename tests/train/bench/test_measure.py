"""What is measured is the training of `train.loop`, and both kinds of hidden states do the same."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.model_shapes import SHAPES
from medusa_jax.objectives.objective import Objective
from tests.train.bench.jobs import tiny_job
from train.bench.job import load, random_batch
from train.bench.measure import measure, num_advances
from train.bench.ours import OurTrainer, cached_batch
from train.flops import Work, flops_per_token


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        yield


def test_report_of_heads_alone():
    job, advances = tiny_job(), []
    report = measure(job, lambda: advances.append(1))
    streamed, cached = report["rows"][:2]
    assert [streamed["side"], cached["side"]] == ["streamed", "cached"]
    assert len(advances) == num_advances(job) == 3 * len(report["rows"])
    assert report["same_first_loss"] is True
    for row in (streamed, cached):
        np.testing.assert_allclose(row["tokens_per_second"] * row["seconds_per_step"], 96)
        assert row["mfu"] is None  # the peak of a CPU is not known
        assert row["last_loss"] < row["first_loss"]
    # Random weights know nothing: log V per head, and a little more.
    guess = math.log(SHAPES["tiny"].vocab_size) * sum(0.8**k for k in (1, 2, 3))
    assert guess < streamed["first_loss"] < 1.3 * guess
    np.testing.assert_allclose(cached["last_loss"], streamed["last_loss"], rtol=1e-4)
    assert report["settings"] == dataclasses.asdict(job) | {"vocab_size": 512}


@pytest.mark.parametrize("own_projection", [False, True])
def test_report_of_heads_and_backbone(own_projection):
    job = tiny_job(objective="medusa2", own_projection=own_projection, dtype="bfloat16")
    report = measure(job, lambda: None)
    (row,) = report["rows"]
    assert report["same_first_loss"] is None
    assert row["last_loss"] < row["first_loss"]
    assert row["speedup_vs_torch"] is None
    assert "heads alone, in float32" in report["notes"][0]


def test_flops_are_the_models_own():
    job = tiny_job(remat=True)
    lm = load(job)
    side = OurTrainer(job, lm, random_batch(job, 512), "streamed")
    heads = MedusaConfig(3, 64, 512, own_projection=False)
    assert side.flops_per_step == 96 * flops_per_token(lm.config, heads, 12, Work("medusa1"))


def test_batch_has_no_padding_and_labels_everywhere():
    job = tiny_job()
    batch = random_batch(job, 512)
    assert {x.shape for x in batch.values()} == {(8, 12)}
    assert (batch["segment"] == 1).all()
    assert batch["is_label"].all()
    assert 0 <= batch["token"].min() < batch["token"].max() < 512
    np.testing.assert_array_equal(batch["position"], [range(12)] * 8)


def test_cached_hidden_states_are_the_backbones():
    job = tiny_job()
    lm, batch = load(job), random_batch(job, 512)
    objective = Objective(lm.config, MedusaConfig(3, 64, 512, own_projection=False))
    cached = cached_batch(objective, lm.params, batch)
    hidden = jax.jit(objective.hidden)({"backbone": lm.params}, batch)
    assert cached["hidden"].dtype == np.float16
    np.testing.assert_allclose(cached["hidden"][:, :, 0], hidden, rtol=1e-3, atol=1e-4)
    for k in range(4):  # head k's label at t is the token at t + k + 1; 0 is the base head
        labels = cached["labels"][:, :, k]
        np.testing.assert_array_equal(labels[:, : 11 - k], batch["token"][:, k + 1 :])
        assert (labels[:, 11 - k :] == -100).all()
    for j in range(1, 4):
        np.testing.assert_array_equal(cached["next"][:, :-j, j - 1], batch["token"][:, j:])
