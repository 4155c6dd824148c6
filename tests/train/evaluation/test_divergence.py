"""KL divergence against its formula, position by position, without batches or padding."""

import numpy as np

from medusa_jax.chat import Example
from medusa_jax.io.load import for_decoding
from tests.medusa_jax.tiny import last_hidden, tiny_lm
from train.evaluation.divergence import divergence_each, mean_divergence


def log_probs(lm, tokens):
    logits = np.asarray(lm.params["lm_head"]["weight"], np.float64) @ last_hidden(lm, tokens)
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def example(tokens, labels):
    return Example(np.asarray(tokens, np.int32), np.asarray(labels, bool))


def test_divergence_is_the_mean_over_positions_that_a_label_follows():
    one, other = tiny_lm("chain:0", seed=1), tiny_lm("chain:0", seed=2)
    rows = [([3, 1, 4, 1, 5, 9], [0, 0, 1, 1, 0, 1]), ([2, 7], [1, 1])]
    found = mean_divergence(one, other, [example(*row) for row in rows])
    wanted = []
    for tokens, labels in rows:
        for t in range(1, len(tokens)):
            if labels[t]:
                p, q = (log_probs(lm, tokens[:t]) for lm in (one, other))
                wanted.append((np.exp(p) * (p - q)).sum())
    assert len(wanted) == 4
    np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-4)
    each = divergence_each(one, other, [example(*row) for row in rows])
    np.testing.assert_allclose(each, [np.sum(wanted[:3]), wanted[3]], rtol=1e-4)


def test_a_quantised_model_is_close_to_itself():
    lm = tiny_lm("chain:0")
    rows = [example([3, 1, 4, 1, 5, 9], [0, 1, 1, 1, 1, 1])]
    assert abs(mean_divergence(lm, lm, rows)) < 1e-6
    assert 1e-6 < mean_divergence(lm, for_decoding(lm, None, "int8"), rows) < 0.1
