from infer import totals as module
from infer.totals import Tally, closing_line, totals
from medusa_jax import Generation


def generation(tokens: int, steps: int, seconds: float, compiled: float = 0.0) -> Generation:
    return Generation(
        *("p", "t", list(range(tokens)), tokens, steps, tokens / steps),
        *(0.1, seconds, tokens / seconds, compiled, "length"),
    )


def test_rows_of_a_batch_share_their_seconds():
    batch = [generation(6, 3, 2.0, 5.0), generation(4, 2, 1.5, 5.0)]
    sums = totals([batch, [generation(5, 5, 1.0)]])
    assert (sums.answers, sums.tokens, sums.steps) == (3, 15, 10)
    assert (sums.seconds, sums.compile_seconds) == (3.0, 5.0)
    assert (sums.tokens_per_step, sums.tokens_per_second) == (1.5, 5.0)
    assert closing_line(sums) == (
        "3 answers, 15 tokens in 10 steps: 1.50 tokens/step, 5.0 tokens/s, after compiling "
        "for 5.0 s"
    )


def test_answers_one_by_one_take_the_sum_of_their_seconds():
    tally = Tally(batch_size=1)
    tally.add(generation(6, 3, 2.0, 5.0))
    tally.add(generation(4, 2, 1.0, 1.0))
    assert closing_line(tally.totals()).endswith("3.3 tokens/s, after compiling for 6.0 s")


def test_answers_side_by_side_take_the_time_that_passes_without_compiling(monkeypatch):
    now = iter([100.0, 107.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    tally = Tally(batch_size=2)
    for seconds in (1.5, 1.9, 1.8):
        tally.add(generation(4, 2, seconds, 5.0))
    sums = tally.totals()
    assert (sums.tokens, sums.seconds, sums.compile_seconds) == (12, 2.0, 5.0)
