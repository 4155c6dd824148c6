"""The torch side of the training benchmark trains as ours does, step by step."""

import jax
import pytest

from tests.train.bench.jobs import tiny_job
from train.bench.job import load, random_batch
from train.bench.ours import OurTrainer
from train.bench.torch_trainer import TorchTrainer, missing_reason

pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        yield


@pytest.mark.parametrize("own_projection", [False, True])
def test_losses_are_the_same_at_every_step(own_projection):
    job = tiny_job(own_projection=own_projection, steps=15)
    assert missing_reason(job) is None
    lm = load(job)
    batch = random_batch(job, lm.config.vocab_size)
    ours, theirs = OurTrainer(job, lm, batch, "streamed"), TorchTrainer(job, lm, batch)
    losses = [(ours.step(), theirs.step()) for _ in range(15)]
    for our_loss, their_loss in losses:
        assert our_loss == pytest.approx(their_loss, rel=2e-5)
    assert losses[-1][0] < 0.998 * losses[0][0]
