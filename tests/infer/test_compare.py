import json

import pytest

from infer.compare import Comparison, _medians, from_rows, to_row
from infer.compare_table import difference_sentence, steps_sentence, time_sentence
from medusa_jax import Generation


def generation(tokens: list[int], steps: int, seconds: float, compiled: float = 0.0) -> Generation:
    n = len(tokens)
    return Generation(
        *("p", "t", tokens, n, steps, n / steps, 0.1, seconds, n / seconds, compiled, "stop")
    )


def comparison(plain: list[Generation], medusa: list[Generation]) -> Comparison:
    return Comparison(plain, medusa, batch_size=1)


def test_the_median_round_counts_and_compilation_is_kept():
    runs = [[generation([1], 1, t, c)] for t, c in ((9, 2), (3, 0), (1, 0), (2, 0.5))]
    (median,) = _medians(runs)
    assert (median.decode_seconds, median.compile_seconds) == (2, 2.5)


def test_later_batches_have_no_warm_up():
    rows = [generation([1], 1, 3.0, 0.0), generation([2], 1, 4.0, 7.0)]
    assert _medians([[], rows]) == rows


def test_a_comparison_survives_its_rows():
    both = comparison([generation([1, 2], 2, 1.0)], [generation([1, 2], 1, 0.5)])
    rows = [to_row(*pair) for pair in zip(both.plain, both.medusa, strict=True)]
    assert from_rows(json.loads(json.dumps(rows)), batch_size=1) == both


def test_sentences_say_what_was_measured():
    both = comparison([generation([1] * 20, 20, 2.0)], [generation([1] * 20, 8, 1.6)])
    plain, medusa = both.totals()
    assert steps_sentence(plain, medusa).startswith(
        "In steps: 8 passes through the model instead of 20, 2.50x the tokens per pass; an "
    )
    words = "12.5 tokens/s with Medusa (2.50 tokens/step) and 10.0 without, a speedup of 1.25x."
    assert time_sentence(plain, medusa, "cpu").endswith(words)


def test_sentences_are_honest_about_a_loss():
    both = comparison([generation([1] * 20, 20, 1.0)], [generation([1] * 20, 20, 2.0)])
    plain, medusa = both.totals()
    assert steps_sentence(plain, medusa).endswith("1.00x the tokens per pass: nothing is gained.")
    sentence = time_sentence(plain, medusa, "gpu")
    assert "this machine's GPU" in sentence
    assert "a speedup of 0.50x, so plain decoding is the faster one" in sentence


@pytest.mark.parametrize(
    ("dtype", "greedy", "reason"),
    [
        ("bfloat16", True, "in bfloat16 two tokens can be nearly tied"),
        ("float32", True, "only an almost exact tie"),
        ("float32", False, "typical acceptance"),
    ],
)
def test_a_difference_is_located_and_explained(dtype, greedy, reason):
    same, other = generation([1, 2, 3], 3, 1.0), generation([1, 9, 3], 2, 1.0)
    both = comparison([same, same], [same, other])
    assert both.different == [1]
    sentence = difference_sentence(both, dtype, greedy=greedy)
    assert sentence.startswith("The texts differ from prompt 2, token 2 on: ")
    assert reason in sentence


def test_an_answer_that_ends_earlier_differs_after_its_end():
    both = comparison([generation([1, 2], 2, 1.0)], [generation([1, 2, 3], 2, 1.0)])
    sentence = difference_sentence(both, "bfloat16", greedy=True)
    assert sentence.startswith("The texts differ from token 3 on: ")
