import pytest

from infer.bench.contenders import Answer, Contender, interleave, ratio, summarize


def test_contenders_take_turns_prompt_by_prompt_after_the_warm_up():
    calls = []

    def contender(name):
        def answer(ids):
            calls.append((name, ids[0]))
            return Answer([len(calls)], 1, 1, 1.0, 1.0)

        return Contender(name, None, 1, lambda ids: calls.append((name, -ids[0])), answer)

    ticks = []
    contenders = [contender("a"), contender("b")]
    answers = interleave(contenders, [[1], [2]], 2, lambda: ticks.append(None))
    assert calls[:4] == [("a", -1), ("a", -2), ("b", -1), ("b", -2)]
    assert calls[4:] == 2 * [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(ticks) == len(calls) == 12
    tokens = [[[answer.token_ids[0] for answer in row] for row in own] for own in answers]
    assert tokens == [[[5, 7], [9, 11]], [[6, 8], [10, 12]]]


def test_summary_is_the_median_of_the_rounds():
    def answer(seconds):
        return Answer([7] * 10, 4, 8, 1.0, seconds)

    rounds = [[answer(1.0), answer(3.0)], [answer(4.0), answer(4.0)], [answer(1.0), answer(1.0)]]
    summary = summarize(rounds)
    assert summary["tokens_per_step"] == 2
    assert summary["tokens_per_second"] == pytest.approx(16 / 4)
    assert summary["tokens_per_second_with_prefill"] == pytest.approx(20 / 6)
    assert summary["step_ms"] == pytest.approx(500)
    assert summary["prefill_ms"] == pytest.approx(1000)
    assert summary["num_new_tokens"] == 20
    assert [r["decode_seconds"] for r in summary["rounds"]] == [4.0, 8.0, 2.0]


def test_ratio_is_taken_round_by_round():
    # Of the medians (3 and 2) it would be 1.5; a slow third round hits both.
    a = {"rounds": [{"x": 2.0}, {"x": 3.0}, {"x": 30.0}]}
    b = {"rounds": [{"x": 1.0}, {"x": 2.0}, {"x": 15.0}]}
    assert ratio(a, b, "x") == 2
    assert ratio(a, None, "x") is None


def test_a_reply_that_ends_at_its_first_token_has_no_step():
    summary = summarize([[Answer([2], 0, 0, 0.5, 0.0)]])
    assert summary["tokens_per_step"] == 0
    assert summary["tokens_per_second_with_prefill"] == pytest.approx(2)
