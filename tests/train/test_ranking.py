"""The best checkpoint: expected tokens per step among those that keep quality."""

import math

import numpy as np
import pytest

from train.ranking import TOLERANCE, Judge, Score

NAN, INF = float("nan"), float("inf")


def test_the_tolerance_is_what_the_docs_say():
    """docs/training.md: 5 % of perplexity."""
    assert math.exp(TOLERANCE) == pytest.approx(1.05, abs=0.005)


def report(accepted, *, head_loss=(2.0, 3.0), **base):
    return {"accepted": np.float32(accepted), "head_loss": np.asarray(head_loss), **base}


def ranks(judge, reports):
    return [judge.score(x).rank for x in reports]


def test_self_distillation_is_not_won_by_the_step_that_has_learned_nothing():
    """The divergence is 0 at the start, and grows as the heads get better."""
    steps = [report(a, kl=kl) for a, kl in ((1.1, 0.0), (1.8, 0.01), (2.1, 0.04), (2.3, 0.2))]
    found = ranks(Judge("self_distill"), steps)
    assert int(np.argmax(found)) == 2
    assert found[3] == pytest.approx(TOLERANCE - 0.2)


def test_medusa2_is_ranked_by_its_heads_while_the_model_is_as_good_as_at_the_start():
    """The lowest LM loss is that of the third, whose heads are not the best."""
    judge = Judge("medusa2")
    assert judge.needs_reference
    start = judge.score(report(1.0, lm_loss=1.75))
    assert not judge.needs_reference
    assert (judge.reference, start.keeps_quality) == (1.75, True)
    steps = [(1.9, 1.78), (2.1, 1.74), (1.95, 1.70), (2.4, 1.90)]
    found = ranks(judge, [report(a, lm_loss=loss) for a, loss in steps])
    assert int(np.argmax(found)) == 1
    assert found[3] < 0 < min(found[:3])


def test_medusa1_is_ranked_by_its_heads_alone():
    judge = Judge("medusa1")
    assert not judge.needs_reference
    found = ranks(judge, [report(1.9, head_loss=(2.0,)), report(2.0, head_loss=(2.5,))])
    assert found == pytest.approx([1.9, 2.0])
    assert judge.reference is None


def test_without_a_tree_the_mean_head_loss_decides():
    low, high = ranks(Judge("medusa1"), [report(1.0, head_loss=x) for x in ((3, 1), (3, 2))])
    assert low == pytest.approx(math.exp(-2))
    assert 0 < high < low < 1


def test_a_resumed_run_keeps_its_reference():
    judge = Judge("medusa2", 1.5)
    assert not judge.needs_reference
    assert not judge.score(report(2.0, lm_loss=1.6)).keeps_quality
    assert judge.reference == 1.5


def test_the_ends_of_the_tolerance():
    assert Score(2.0, 1.0, 1.0 + TOLERANCE, 1.0).rank == 2.0
    assert Score(2.0, 1.0, 1.001 + TOLERANCE, 1.0).rank == pytest.approx(-0.001)
    # Of those that lost quality, the one that lost least.
    assert Score(1.5, 1.0, 1.1, 1.0).rank > Score(3.0, 1.0, 1.2, 1.0).rank


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_is_never_best(bad):
    good = Score(1.0, 9.0, 9.0, 0.0)
    for score in (
        Score(bad, 1.0, None, None),
        Score(2.0, bad, None, None),
        Score(2.0, 1.0, bad, 1.0),
        Score(2.0, 1.0, 1.0, bad),
    ):
        assert score.rank == -INF < good.rank
        assert score.not_finite.endswith(f" is {bad}")
    assert good.not_finite == ""
    assert Score(bad, bad, 1.0, 0.0).not_finite == f"the held-out loss of the heads is {bad}"


def test_notes_are_numbers():
    assert Score(2.0, 1.0, None, None).notes() == {"tokens_per_step": 2.0}
    assert Score(2.0, 1.0, 0.5, 0.0).notes() == {"tokens_per_step": 2.0, "base_loss": 0.5}
