"""The benchmark of exact sampling, on a small model."""

import dataclasses

import numpy as np
import pytest

from infer.bench import sampling
from infer.bench.sampling import SamplingJob, measure_sampling
from medusa_jax import UserError


@pytest.fixture(scope="module")
def report(stories260k, heads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "TEMPERATURES", (0.0, 1.0))
        patch.setattr(sampling, "_BATCH", 2)
        prompts = ["Once upon a time", "The dog", "Lily and Tom went to the park. They saw a"]
        yield measure_sampling(
            SamplingJob(
                model=str(stories260k),
                medusa=str(heads),
                prompts=prompts,
                tree="chain:2",
                dtype="float32",
                max_new_tokens=12,
                seeds=2,
            )
        )


def test_the_tree_is_checked_first(lm):
    assert sampling._with_tree(lm, None).tree.max_depth <= lm.heads_config.num_heads
    with pytest.raises(UserError, match="needs 9 heads"):
        sampling._with_tree(lm, "chain:9")
    with pytest.raises(UserError, match="name them with --medusa"):
        sampling._with_tree(dataclasses.replace(lm, heads_config=None), None)


def test_rows_are_greedy_and_both_kinds_of_drafts(report):
    kinds = [(row["temperature"], row["noise_in_drafts"]) for row in report["rows"]]
    assert kinds == [(0.0, True), (1.0, True), (1.0, False)]
    assert report["settings"]["prompts"] == 3


def test_every_answer_is_that_of_plain_decoding(report):
    assert [row["partings"] for row in report["rows"]] == [[]] * 3
    greedy, aware, unaware = report["rows"]
    assert sum(greedy["tokens"]) <= 3 * 12
    assert sum(aware["tokens"]) == sum(unaware["tokens"]) > 3 * 12  # two seeds, the same texts


def test_figures_follow_from_tokens_and_steps(report):
    greedy, aware, _ = report["rows"]
    for row in report["rows"]:
        assert row["tokens_per_step"] == pytest.approx(sum(row["tokens"]) / sum(row["steps"]))
        low, high = row["interval"]
        assert low <= row["tokens_per_step"] <= high
    ratio = aware["tokens_per_step"] / greedy["tokens_per_step"]
    assert aware["vs_greedy"] == pytest.approx(ratio)
    assert not np.isnan(aware["vs_greedy_interval"]).any()
    assert "vs_greedy" not in greedy


def test_one_prompt_has_no_interval_and_no_more_tokens_than_its_context(stories260k, monkeypatch):
    monkeypatch.setattr(sampling, "TEMPERATURES", (0.0,))
    job = SamplingJob(
        model=str(stories260k),
        medusa="none",
        prompts=[[7] * 509],
        tree="chain:0",
        dtype="float32",
        max_new_tokens=4,
        seeds=1,
    )
    (row,) = measure_sampling(job)["rows"]
    assert row["interval"] is None
    assert row["tokens"] == [3]
