"""What is measured and what not; the times themselves are a machine's own."""

import dataclasses

import jax
import pytest

from infer.tuning import step_times
from medusa_jax.tuning.times import Point


def fake(seconds, log=None):
    """Stands for the clock: seconds by (batch, nodes)."""

    class Fake:
        def __init__(self, lm, prospect, batch, nodes, slots):
            self.size = batch, nodes

        def __str__(self):
            return f"{self.size[0]} x {self.size[1]}"

        def visit(self):
            if log is not None:
                log.append(self.size)
            return seconds(*self.size)

    return Fake


def measured(lm, monkeypatch, seconds, batches=(1, 4), known=(), log=None):
    monkeypatch.setattr(step_times, "StepClock", fake(seconds, log))
    visits = []
    wanted = step_times.plan(lm, batches)
    points = list(step_times.measure(lm, wanted, known, visits.append))
    assert sum(visits) == len(wanted) * step_times.VISITS
    return points


def test_free_nodes_are_all_measured(lm, monkeypatch):
    points = measured(lm, monkeypatch, lambda batch, nodes: 1.0)
    assert [p.nodes for p in points if p.batch == 1 and p.slots == 256] == list(step_times.NODES)


def test_trees_that_cannot_pay_are_left_out(lm, monkeypatch):
    """Nodes cost their number: with two, no tree can give enough tokens any more."""
    points = measured(lm, monkeypatch, lambda batch, nodes: float(nodes))
    assert max(p.nodes for p in points if p.slots == 256) < 8


@pytest.mark.parametrize(
    ("batches", "expected"), [((1, 4, 8, 64), {1, 8}), ((1, 4), {1, 4}), ((2,), {2}), ((16,), {16})]
)
def test_long_contexts_are_measured_with_few_rows_and_several(lm, batches, expected):
    """As far as the cache of other models is sure to fit."""
    config = dataclasses.replace(lm.config, max_position=1024)
    wanted = step_times.plan(dataclasses.replace(lm, config=config), batches)
    assert {batch for batch, _, slots in wanted if slots == 1024} == expected
    short = dataclasses.replace(lm.config, max_position=1023)
    wanted = step_times.plan(dataclasses.replace(lm, config=short), batches)
    assert {slots for _, _, slots in wanted} == {256}


def test_an_interrupted_run_goes_on(lm, monkeypatch):
    known = [Point(1, 1, 256, 1.0), Point(1, 2, 256, 1.0)]
    points = measured(lm, monkeypatch, lambda batch, nodes: 1.0, known=known)
    assert not {(p.batch, p.nodes, p.slots) for p in points} & {(1, 1, 256), (1, 2, 256)}


def test_what_has_no_room_is_left_out_and_said(lm, monkeypatch, capsys):
    def seconds(batch, nodes):
        if batch * nodes > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return 1.0

    points = measured(lm, monkeypatch, seconds, batches=(1, 4, 64))
    assert {(p.batch, p.nodes) for p in points} == {(1, 1), (1, 2), (1, 4), (1, 8), (4, 1), (4, 2)}
    err = capsys.readouterr().err
    assert err.count("left out") == 3
    assert "no room for 64 x 1: left out, and larger trees, too" in err


def test_a_disturbed_visit_rules_out_no_tree(lm, monkeypatch):
    """Plain steps seem to take three times as long at first, as if larger trees could not pay."""
    seen = []

    def seconds(batch, nodes):
        seen.append(nodes)
        return 3.0 if nodes == 1 and len(seen) <= 2 else 1.05 if nodes > 1 else 1.0

    points = measured(lm, monkeypatch, seconds, batches=(1,))
    assert [p.nodes for p in points if p.slots == 256] == list(step_times.NODES)
    assert min(p.seconds for p in points) == 1.0


def test_sizes_take_turns_and_the_fastest_visit_but_the_first_counts(lm, monkeypatch):
    log, times = [], iter([0.5, 3.0, 0.5, 3.0, 2.0, 3.0, 3.0, 2.5, 3.0, 3.0, 3.0, 3.0])
    known = [Point(1, n, 256, 1.0) for n in step_times.NODES if n > 2]
    points = measured(lm, monkeypatch, lambda batch, nodes: next(times), (1,), known, log)
    one, two = (1, 1), (1, 2)
    assert log == [one, one, two, two] + [one, two] * (step_times.VISITS - 2)
    assert points == [Point(1, 1, 256, 2.0), Point(1, 2, 256, 2.5)]


@pytest.mark.parametrize("nodes", [1, 4])
def test_rows_decode_all_the_time(lm, nodes):
    """The clock itself checks that every step was taken."""
    clock = step_times.StepClock(lm, lm.prospect(0.0, 1), 2, nodes, 256)
    assert all(clock.visit() > 0 for _ in range(2))
