from infer.totals import closing_line, running, totals
from medusa_jax import Generation
from medusa_jax.decoding.runtime import Clock


def generation(tokens: int, steps: int, seconds: float, compiled: float = 0.0) -> Generation:
    return Generation(
        *("p", "t", list(range(tokens)), tokens, steps, tokens / steps),
        *(0.1, seconds, tokens / seconds, compiled, "length"),
    )


def test_answers_side_by_side_share_the_seconds_of_a_clock():
    results = [generation(6, 3, 2.0, 5.0), generation(4, 2, 1.5, 5.0), generation(5, 5, 1.0)]
    sums = totals(results, Clock(compile=5.0, prefill=9.0, decode=3.0))
    assert (sums.answers, sums.tokens, sums.steps) == (3, 15, 10)
    assert (sums.seconds, sums.compile_seconds) == (3.0, 5.0)
    assert (sums.tokens_per_step, sums.tokens_per_second) == (1.5, 5.0)
    assert closing_line(sums) == (
        "3 answers, 15 tokens in 10 steps: 1.50 tokens/step, 5.0 tokens/s, after compiling "
        "for 5.0 s"
    )


def test_the_seconds_of_answers_one_by_one_add_up():
    results = [generation(6, 3, 2.0, 5.0), generation(4, 2, 1.0, 1.0)]
    assert closing_line(totals(results)).endswith("3.3 tokens/s, after compiling for 6.0 s")


def test_what_is_in_the_making_counts_while_it_runs():
    clock = Clock(compile=5.0, prefill=9.0, decode=2.0, tokens=12, row_steps=8)
    assert running(clock) == "1.50 tokens/step, 6.0 tokens/s"
    assert running(Clock()) == "0.00 tokens/step, 0.0 tokens/s"
