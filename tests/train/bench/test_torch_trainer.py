"""What is compared with torch, and what is not."""

import importlib.util

import pytest

from tests.train.bench.jobs import tiny_job
from train.bench.torch_trainer import missing_reason


@pytest.mark.parametrize("changed", [{"objective": "medusa2"}, {"dtype": "bfloat16"}])
def test_torch_trains_the_heads_alone_in_float32(changed):
    assert "heads alone, in float32" in str(missing_reason(tiny_job(**changed)))


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_a_note_says_how_to_get_it():
    assert "pip install" in str(missing_reason(tiny_job()))
