"""Rows that stay valid JSON, never repeat a step, and reach TensorBoard."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from train.metrics import MetricsWriter


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """Every event of every TensorBoard file: length, checksum, message, checksum."""
    found = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


@pytest.fixture
def writer(tmp_path):
    writer = MetricsWriter(tmp_path, process_index=0)
    yield writer
    writer.close()


def test_rows_hold_what_was_measured(writer, tmp_path):
    loss = np.float32(2.302585)
    writer.write({"step": 1, "loss": loss, "head_loss": jnp.asarray([0.1, 3.0]), "mfu": None})
    writer.write({"step": jnp.int32(2), "loss": 1 / 3, "tokens": 2**40, "note": "x"})
    first, second = rows(tmp_path)
    assert first == {"step": 1, "loss": 2.302585, "head_loss": [0.1, 3.0], "mfu": None}
    assert np.float32(first["loss"]) == loss
    assert second == {"step": 2, "loss": 0.33333334, "tokens": 2**40, "note": "x"}


def test_every_float32_survives(writer, tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**31, 200, np.uint32)
    values = np.concatenate([bits.view(np.float32), [np.float32(3.4e38)]])
    values = values[np.isfinite(values)]
    writer.write({"step": 1, "loss": 0.0, "values": values})
    np.testing.assert_array_equal(np.asarray(rows(tmp_path)[0]["values"], np.float32), values)


def test_what_json_cannot_hold_becomes_text(writer, tmp_path):
    writer.write({"step": 1, "loss": float("nan"), "norms": [np.inf, -np.inf, 1.0]})
    assert rows(tmp_path) == [{"step": 1, "loss": "nan", "norms": ["inf", "-inf", 1.0]}]


def test_a_resumed_run_repeats_no_step(writer, tmp_path):
    for step in (5, 10, 15):
        writer.write({"step": step, "loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')  # what kill -9 may leave
    resumed = MetricsWriter(tmp_path, process_index=0)
    resumed.truncate(11)
    assert [row["step"] for row in rows(tmp_path)] == [5, 10]
    resumed.write({"step": 15, "loss": 2.0})
    resumed.close()
    assert [row["step"] for row in rows(tmp_path)] == [5, 10, 15]
    assert rows(tmp_path)[-1]["loss"] == 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]
    marks = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert marks == [11]  # TensorBoard hides older points from there on


def test_truncating_before_the_first_row_is_fine(writer, tmp_path):
    writer.truncate(1)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_gets_scalars_and_heads_by_number(writer, tmp_path):
    writer.write({"step": 3, "loss": 1.5, "head_top1": [0.25, 0.5], "note": "x", "mfu": None})
    writer.flush()
    writer.close()
    writer.close()
    points = {
        value.tag: (event.step, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
    }
    assert points == {"loss": (3, 1.5), "head_top1/1": (3, 0.25), "head_top1/2": (3, 0.5)}


def test_other_processes_write_nothing(tmp_path):
    writer = MetricsWriter(tmp_path / "run", process_index=1)
    writer.truncate(0)
    writer.write({"step": 1, "loss": 1.0})
    writer.flush()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_other_processes_leave_the_log_alone(writer, tmp_path):
    writer.write({"step": 1, "loss": 1.0})
    MetricsWriter(tmp_path, process_index=3).truncate(0)
    assert len(rows(tmp_path)) == 1
