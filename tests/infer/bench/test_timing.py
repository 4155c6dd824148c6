"""The copy that bandwidths are compared with, and time that is not exceeded."""

from infer.bench import timing


def test_copy_bandwidth_is_measured_on_a_large_array():
    copy = timing.copy_bandwidth(1)
    assert copy["bytes"] >= 2**26
    assert copy["bytes_per_second"] > 0


def test_a_budget_allows_what_takes_as_long_as_the_longest_before(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    budget = timing.Budget(1.0)
    now[0] = 159.0
    assert budget.allows_another()  # the first, however late
    now[0] = 100.0
    for seconds in (20.0, 5.0):
        with budget.spend():
            now[0] += seconds
    now[0] = 139.9
    assert budget.allows_another()
    now[0] = 140.0
    assert not budget.allows_another()


def test_no_limit_allows_everything(monkeypatch):
    budget = timing.Budget(None)
    with budget.spend():
        pass
    monkeypatch.setattr(timing.time, "monotonic", lambda: 1e12)
    assert budget.allows_another()
