"""The benchmark of batches, on a small model: all ways of decoding give the same tokens."""

import importlib.util

import pytest

from infer.bench import batches
from infer.bench.batches import BatchesJob, measure_batches
from medusa_jax.errors import UserError


@pytest.fixture(scope="module")
def report(stories260k, heads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "PROMPTS", 5)
        patch.setattr(batches, "LONGEST", 24)
        # The last one leaves room for seven tokens in the context of 512.
        prompts = ["Once upon a time", "Lily and Tom went to the park. They saw a", [7] * 505]
        job = BatchesJob(
            model=str(stories260k),
            medusa=str(heads),
            prompts=prompts,
            trees=["auto", "mc_sim_7b_63:2"],
            dtype="float32",
            batch_size=2,
            rounds=1,
        )
        yield measure_batches(job)


def test_rows_are_those_of_every_way(report):
    has_torch = importlib.util.find_spec("torch") is not None
    assert [(row["decoder"], row["tree"], row["batches"]) for row in report["rows"]] == [
        ("autoregressive", None, "static"),
        ("autoregressive", None, "refilled"),
        ("medusa", "auto", "refilled"),
        ("medusa", "mc_sim_7b_63:2", "static"),
        ("medusa", "mc_sim_7b_63:2", "refilled"),
        *([("transformers", None, "static")] if has_torch else []),
    ]
    assert len(report["notes"]) == (not has_torch)


def test_all_give_the_same_tokens_and_no_more_than_their_budgets(report):
    budgets = report["settings"]["budgets"]
    assert len(budgets) == 5
    assert budgets.pop(2) == 7
    assert all(16 <= budget <= 24 for budget in budgets)
    for row in report["rows"]:
        assert row["different_prompts"] == []
        assert row["num_new_tokens"] == 7 + sum(budgets)
        (seconds,) = row["rounds_seconds"]
        assert row["tokens_per_second"] == row["num_new_tokens"] / seconds
    assert report["rows"][0]["vs_first"] == 1


def test_trees_that_the_heads_cannot_fill_are_refused(stories260k):
    job = BatchesJob(
        model=str(stories260k),
        medusa="none",
        prompts=["Once upon a time"],
        trees=["mc_sim_7b_63:4"],
        dtype="float32",
        batch_size=2,
        rounds=1,
    )
    with pytest.raises(UserError, match="the model has 0"):
        measure_batches(job)
