"""Options of a call arrive in its answers."""

import numpy as np
import pytest

import medusa_jax

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def lm(stories_lm):
    return stories_lm


def answer(lm, **options):
    (result,) = medusa_jax.generate(lm, [PROMPT], tree="chain:0", max_new_tokens=6, **options)
    return result


def test_log_probabilities_come_with_the_tokens(lm):
    result = answer(lm, logprobs=True)
    assert len(result.logprobs) == len(result.token_ids)
    assert (np.asarray(result.logprobs) < 0).all()
    assert answer(lm).logprobs is None


def test_a_bias_bans_a_token(lm):
    first = answer(lm).token_ids[0]
    assert answer(lm, logit_bias={first: float("-inf")}).token_ids[0] != first


@pytest.mark.parametrize("bias", [1000.0, 3.4e38])
def test_a_bias_forces_a_token(lm, bias):
    assert answer(lm, logit_bias={7: bias}, temperature=0.7).token_ids == [7] * 6


def test_top_k_has_no_largest_number(lm):
    assert (
        answer(lm, top_k=2**70, temperature=0.7).token_ids == answer(lm, temperature=0.7).token_ids
    )


def test_filters_of_one_row_are_not_those_of_its_neighbour(lm):
    """Nor does it matter that rows alone have programs without filters."""
    prompts = ["One day", "The cat", "Tom and"]
    options = {"temperature": 1.0, "seed": 3, "max_new_tokens": 8, "tree": "chain:0"}

    def answers(**more):
        return [o.token_ids for o in medusa_jax.generate(lm, prompts, **(options | more))]

    free, greedy = answers(), answers(temperature=0.0)
    mixed = answers(each=[{}, {"top_k": 1}, {}], batch_size=3)
    assert mixed == [free[0], greedy[1], free[2]]
    assert free[1] != greedy[1]


def test_a_context_bounds_prompt_and_answer(lm):
    length = len(lm.tokenizer(PROMPT)["input_ids"])
    assert answer(lm, max_context=length + 2).num_new_tokens == 2
    with pytest.raises(medusa_jax.UserError, match="raise max_context"):
        answer(lm, max_context=length)


def test_answers_come_in_order_whichever_ends_first(lm):
    budgets = [{"max_new_tokens": 9, "num_samples": 2}, {"max_new_tokens": 2}, {}]
    options = {"batch_size": 3, "each": budgets, "max_new_tokens": 4, "temperature": 1.0}
    prompts = [PROMPT, "The dog", "Lily"]
    done = medusa_jax.generate_as_done(lm, prompts, tree="chain:0", **options)
    assert [index for index, _ in done] != [0, 0, 1, 2]
    answers = medusa_jax.generate_batches(lm, prompts, tree="chain:0", **options)
    expected = [(PROMPT, 0), (PROMPT, 1), ("The dog", 0), ("Lily", 0)]
    assert [(answer.prompt, answer.sample) for answer in answers] == expected
