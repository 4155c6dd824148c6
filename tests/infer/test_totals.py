from infer.totals import closing_line, totals
from medusa_jax import Generation


def generation(tokens: int, steps: int, seconds: float, compiled: float = 0.0) -> Generation:
    return Generation(
        *("p", "t", list(range(tokens)), tokens, steps, tokens / steps),
        *(0.1, seconds, tokens / seconds, compiled, "length"),
    )


def test_rows_of_a_batch_share_their_seconds():
    results = [generation(6, 3, 2.0, 5.0), generation(4, 2, 2.0, 5.0), generation(5, 5, 1.0)]
    sums = totals(results, batch_size=2)
    assert (sums.tokens, sums.steps) == (15, 10)
    assert (sums.seconds, sums.compile_seconds) == (3.0, 5.0)
    assert (sums.tokens_per_step, sums.tokens_per_second) == (1.5, 5.0)
    line = closing_line(results, batch_size=2)
    assert line == (
        "3 answers, 15 tokens in 10 steps: 1.50 tokens/step, 5.0 tokens/s, after compiling "
        "for 5.0 s"
    )
