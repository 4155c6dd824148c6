"""Gaps against logits that are computed token by token."""

import numpy as np

from infer.bench.verify import logit_gaps, verify
from tests.medusa_jax.tiny import last_hidden, tiny_lm

PROMPT = [3, 1, 4]


def test_gaps_are_differences_of_logits():
    lm = tiny_lm()
    answer = [5, 9, 2, 6]
    expected = []
    for i, token in enumerate(answer):
        logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, PROMPT + answer[:i])
        expected.append(logits_V.max() - logits_V[token])
    np.testing.assert_allclose(logit_gaps(lm, PROMPT, answer), expected, atol=1e-4)


def test_a_greedy_answer_has_no_gap_and_a_changed_one_has():
    lm = tiny_lm()
    answer = []
    for _ in range(6):
        logits_V = np.asarray(lm.params["lm_head"]["weight"]) @ last_hidden(lm, PROMPT + answer)
        answer.append(int(logits_V.argmax()))
    clean = verify(lm, [PROMPT, PROMPT[:1]], [answer, []])
    assert clean == {"positions": 6, "other_choices": 0, "largest_gap": 0.0}
    second = int(np.argsort(np.asarray(logits_V))[-2])
    changed = verify(lm, [PROMPT], [[*answer[:-1], second]])
    assert changed["other_choices"] == 1
    gap = logits_V.max() - logits_V[second]
    np.testing.assert_allclose(changed["largest_gap"], gap, rtol=1e-4)
