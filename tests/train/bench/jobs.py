"""A job that takes no time."""

from typing import Any

from train.bench.job import Job

_TINY: dict[str, Any] = {
    "model": None,
    "shape": "tiny",
    "objective": "medusa1",
    "batch_size": 8,  # one row for each device of the tests
    "seq_len": 12,
    "num_heads": 3,
    "own_projection": False,
    "dtype": "float32",
    "remat": False,
    "steps": 2,
    "rounds": 2,
}


def tiny_job(**changed: Any) -> Job:
    return Job(**_TINY | changed)
