import json

import pytest

from infer import display
from infer.answers import Job, begins_plainly
from infer.compare import Comparison, Run, _rows, from_rows, speedup
from infer.compare_table import (
    difference_sentence,
    steps_sentence,
    time_sentence,
    wide_sentences,
)
from medusa_jax import Generation, GenerationConfig
from medusa_jax.chat import Encoded
from medusa_jax.tuning.choose import Choice


def generation(tokens: list[int], steps: int, seconds: float, compiled: float = 0.0) -> Generation:
    n = len(tokens)
    return Generation(
        *("p", "t", tokens, n, steps, n / steps, 0.1, seconds, n / seconds, compiled, "stop")
    )


def comparison(plain: list[Generation], medusa: list[Generation], speedups=(1.0,), wide=None):
    seconds = [sum(result.decode_seconds for result in side) for side in (plain, medusa)]
    return Comparison(plain, medusa, (seconds[0], seconds[1]), len(plain), list(speedups), wide)


def pair(plain: list[Generation], medusa: list[Generation], seconds: tuple[float, float]):
    return Run(plain, seconds[0]), Run(medusa, seconds[1])


NOTHING = pair([], [], (0.0, 0.0))


def test_the_median_ratio_s_round_counts_on_both_sides_and_compilation_is_kept():
    seconds = [(4, 2), (4, 1), (3, 1)]  # ratios 2, 4 and 3
    rounds = [
        pair([generation([1], 1, p, 0.5)], [generation([1], 1, m)], (p, m)) for p, m in seconds
    ]
    warm_up = pair([generation([1], 1, 9.0, 2.0)], [], (9, 0))
    both = from_rows(_rows([7], warm_up, rounds, [None]))
    assert both.seconds == (3, 1)
    assert (both.plain[0].decode_seconds, both.medusa[0].decode_seconds) == (3, 1)
    assert (both.plain[0].compile_seconds, both.medusa[0].compile_seconds) == (3.5, 0)
    assert both.speedups == pytest.approx([2, 4, 3])


def test_what_auto_begins_with_depends_on_the_batch(lm, monkeypatch):
    """A tree for one row may be none for sixteen, and then --compare shows a small one."""
    choices = {1: Choice(8, 2.0, 1.5, "measured"), 16: Choice(1, 1.0, 1.0, "measured")}
    asked = []

    def auto_choice(lm, config, batch, longest):
        asked.append(longest)
        return choices[batch]

    monkeypatch.setattr(display, "auto_choice", auto_choice)
    prompts = [Encoded("", (5,) * number) for number in range(1, 17)]
    options = (
        (1, {"max_new_tokens": 100}),
        (16, {}),
        (1, {"max_new_tokens": 900}),
        (1, {"max_context": 40}),
    )
    jobs = [Job(prompts, size, GenerationConfig(**own)) for size, own in options]
    auto = lm.with_tree("auto")
    assert [begins_plainly(auto, job) for job in jobs] == [False, True, False, False]
    assert asked == [16 + 100, 16 + 128, 512, 40]
    assert not any(begins_plainly(lm.with_tree("chain:0"), job) for job in jobs)


def test_a_round_s_ratio_is_that_of_whole_batches():
    plain = [generation([1] * 6, 6, 1.0), generation([1] * 4, 4, 2.0)]
    medusa = [generation([1] * 6, 3, 0.5), generation([1] * 3, 2, 0.8)]
    assert speedup(pair(plain, medusa, (2.5, 0.9))) == pytest.approx((9 / 0.9) / (10 / 2.5))


def test_a_comparison_survives_its_rows_in_whichever_order_they_were_done():
    def answers(*numbers):
        plain = [generation([n, n], 2, 1.0) for n in numbers]
        return pair(plain, [generation([n, n], 1, 0.5) for n in numbers], (1.0, 0.5))

    larger = {"nodes": 64, "num_new_tokens": 2, "num_steps": 1}
    rows = _rows([1], NOTHING, [answers(1)], [larger])
    rows |= _rows([0, 2], NOTHING, [answers(0, 2)], [larger | {"num_steps": 3}, larger])
    both = from_rows({int(i): row for i, row in json.loads(json.dumps(rows)).items()})
    assert [result.token_ids[0] for result in both.plain] == [0, 1, 2]
    assert both.medusa == answers(0, 1, 2)[1].answers
    assert (both.batches, both.seconds) == (2, (2.0, 1.0))
    assert both.totals()[0].seconds == 2
    assert both.speedups == [2, 2]
    assert both.wide == (64, 6 / 5)


def words(both):
    return [time_sentence(both, "cpu"), steps_sentence(*both.totals()), *wide_sentences(both)]


def test_sentences_say_what_was_measured():
    sides = [generation([1] * 20, 20, 2.0)], [generation([1] * 20, 8, 1.6)]
    time, steps, wide = words(comparison(*sides, [1.2, 1.3, 1.25, 1.22, 1.28], (64, 2.345)))
    assert time == (
        "In time: on this machine's CPU, measured just now, 12.5 tokens/s with Medusa (2.50 "
        "tokens/step) and 10.0 without, a speedup of 1.25x (the median of 5 rounds; 1.20x to "
        "1.30x with 90% confidence)."
    )
    assert steps == (
        "In steps: 8 passes through the model instead of 20, 2.50x the tokens per pass."
    )
    assert wide.startswith(
        "With a tree of 64 nodes: 2.35 tokens per step. A large accelerator can turn most of that "
    )


def test_several_batches_are_told_apart():
    sides = [generation([1] * 20, 20, 2.0)] * 2, [generation([1] * 20, 8, 1.6)] * 2
    time, _ = words(comparison(*sides, [1.5, 1.1]))
    assert "a speedup of 1.25x (from 1.10x to 1.50x in the single batches)." in time


def test_sentences_are_honest_about_a_loss():
    both = comparison([generation([1] * 20, 20, 1.0)], [generation([1] * 20, 20, 2.0)])
    time, steps = words(both)
    assert steps.endswith("1.00x the tokens per pass: nothing is gained.")
    assert time.endswith("a speedup of 0.50x, so plain decoding is the faster one here.")


@pytest.mark.parametrize(
    ("dtype", "rule", "reason"),
    [
        ("bfloat16", "greedy", "in bfloat16 two tokens can be nearly tied"),
        ("float16", "lossless", "in float16 two tokens can be nearly tied"),
        ("float32", "greedy", "only an almost exact tie"),
        ("float32", "lossless", "only an almost exact tie"),
        ("float32", "typical", "typical acceptance"),
    ],
)
def test_a_difference_is_located_and_explained(dtype, rule, reason):
    same, other = generation([1, 2, 3], 3, 1.0), generation([1, 9, 3], 2, 1.0)
    both = comparison([same, same], [same, other])
    assert both.different == [1]
    sentence = difference_sentence(both, dtype, rule=rule)
    assert sentence.startswith("The texts differ from prompt 2, token 2 on: ")
    assert reason in sentence


def test_an_answer_that_ends_earlier_differs_after_its_end():
    both = comparison([generation([1, 2], 2, 1.0)], [generation([1, 2, 3], 2, 1.0)])
    sentence = difference_sentence(both, "bfloat16", rule="greedy")
    assert sentence.startswith("The texts differ from token 3 on: ")
