"""Measurements that say nothing are refused, not kept."""

import jax
import numpy as np
import pytest

from infer.tuning import acceptance, step_times
from infer.tuning.measure import measure_acceptance, measure_times
from medusa_jax.errors import UserError


def test_answers_without_a_second_token_give_no_acceptance(lm, kept, monkeypatch):
    def measure(lm, prompts, numbers, config):
        yield from ((number, np.zeros((number, 4), np.int64)) for number in numbers)

    monkeypatch.setattr(acceptance, "measure", measure)
    files, options = kept(), {"max_new_tokens": 8, "is_asked": False}
    with pytest.raises(UserError, match="all answers are empty: give other prompts"):
        measure_acceptance(lm, files, ["One", "Two"], [0.0], **options)
    assert files.acceptance is None
    measure_acceptance(lm, files, ["One", "Two", "Three"], [0.0], **options)
    assert list(files.acceptance.by_temperature) == [0.0]


def test_batches_without_room_give_no_times(lm, kept, monkeypatch):
    def refuse(clock):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(step_times.StepClock, "visit", refuse)
    files = kept()
    with pytest.raises(UserError, match="no batch has room on this device: give smaller"):
        measure_times(lm, files, [64])
    assert files.measured().times == {}
