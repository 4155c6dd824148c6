"""What the Python API refuses, in one line."""

import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax import GenerationConfig, UserError
from medusa_jax.chat import Encoded

PROMPTS = ["Once upon a time"]


@pytest.fixture(scope="module")
def heads(stories_heads):
    return stories_heads


@pytest.fixture(scope="module")
def lm(stories_lm):
    return stories_lm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        (
            {"temperature": 1e39},
            "temperature is 1e\\+39: it must be 0 or more, and a number of float32",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5: it must be a whole number"),
        ({"seed": 1.0}, "seed is 1.0: it must be a whole number"),
        ({"acceptance": "lucky"}, "greedy, typical or lossless"),
        ({"acceptance": "greedy", "temperature": 0.5}, "choose acceptance lossless"),
        ({"acceptance": "typical", "top_p": 0.9}, "leave out top_k, top_p and min_p"),
        ({"top_k": -1}, "top_k is -1: it must be at least 0"),
        ({"top_p": 0.0}, "top_p is 0.0: it must lie above 0"),
        ({"min_p": 1.5}, "min_p is 1.5: it must lie between 0 and 1"),
        ({"num_samples": 0}, "num_samples is 0: it must be at least 1"),
        ({"max_context": 1}, "max_context is 1: it must be at least 2"),
        ({"stop": "END"}, "give a list of texts"),
        ({"stop": [""]}, "not empty"),
        ({"stop": None}, "give a list of texts"),
        ({"logit_bias": [7]}, "give numbers by token id"),
        ({"logit_bias": {"a": 1.0}}, "give token ids"),
        ({"logit_bias": {3: float("nan")}}, "numbers that float32 has or -inf"),
        ({"logit_bias": {3: float("inf")}}, "numbers that float32 has or -inf"),
        ({"logit_bias": {3: -1e39}}, "numbers that float32 has or -inf"),
        ({"temperature": "1"}, "temperature is '1': it must be a number"),
        ({"top_p": None}, "top_p is None: it must be a number"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"delta": -1.0}, "delta"),
        ({"delta": 10**400}, "delta"),
        ({"temperature": 1.0, "epsilon": 0.2}, "choose acceptance typical, or leave them out"),
        ({"temperature": 1.0, "delta": 0.2}, "choose acceptance typical, or leave them out"),
        ({"temperature": 1.0, "sampled_root": True}, "choose acceptance typical"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message) as error:
        GenerationConfig(**options)
    assert "\n" not in str(error.value)


def test_the_bias_of_an_unknown_token_is_refused(lm):
    for token in (-1, 512):
        with pytest.raises(UserError, match=r"logit_bias must lie in 0\.\.511"):
            medusa_jax.generate(lm, PROMPTS, logit_bias={token: 1.0})
        with pytest.raises(UserError, match=r"logit_bias must lie in 0\.\.511"):
            medusa_jax.Session(lm, logit_bias={token: 1.0})


def test_a_bias_that_leaves_no_token_is_refused(lm):
    excluded = dict.fromkeys(range(512), -float("inf"))
    with pytest.raises(UserError, match="logit_bias excludes all tokens"):
        medusa_jax.generate(lm, PROMPTS, logit_bias=excluded)
    del excluded[263]
    (answer,) = medusa_jax.generate(lm, PROMPTS[:1], logit_bias=excluded, max_new_tokens=3)
    assert answer.token_ids == [263] * 3


def test_prompts_of_a_batch_share_their_rule_and_tree(lm):
    for each in (
        [{"temperature": 0.5}, {}],
        [{"temperature": 0.5, "acceptance": "typical"}, {"temperature": 0.5}],
        [{"tree": "chain:1"}, {"tree": "chain:0"}],
    ):
        with pytest.raises(UserError, match="share acceptance and tree"):
            medusa_jax.generate(lm, PROMPTS * 2, each=each)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([512], "0..511"), ([{"role": "user", "content": "Hi"}], "template")],
)
def test_prompts_that_cannot_be_answered(lm, prompt, message):
    with pytest.raises(UserError, match=message):
        medusa_jax.generate(lm, [prompt])


def test_load_refuses_what_does_not_fit(stories260k, heads, tmp_path):
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        medusa_jax.load(str(stories260k), "none", dtype="int8")
    with pytest.raises(UserError, match="heads"):
        medusa_jax.load(str(stories260k), "none", tree="chain:2")
    with pytest.raises(UserError, match="heads"):
        medusa_jax.load(str(stories260k), str(heads), tree="chain:5")


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([1, 2, 3], "a prompt is 1: give a list of prompts"),
        (np.array([5, 6]), "a prompt is .*5.*: give a list of prompts"),
        ([None], "a prompt is None"),
        ([{"role": "user", "content": "Hi"}], "a prompt is {.*: give a list of prompts"),
        ([[{"role": "user"}]], "message 1 needs a string 'content'"),
        ([np.array([[1, 2]])], "message 1 needs a string 'role'"),
        ([["Hi"]], "message 1 needs a string 'role'"),
        ([b"Hi"], "a prompt is b'Hi': give a list of prompts"),
        ([*jnp.array([5, 6])], "a prompt is .*5.*: give a list of prompts"),
        ([Encoded("", ())], "the prompt has no tokens"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(lm, prompts, message):
    with pytest.raises(UserError, match=message) as error:
        medusa_jax.generate(lm, prompts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 2.0, None])
def test_a_batch_is_a_whole_number_of_rows(lm, size):
    with pytest.raises(UserError, match=f"batch_size is {size}: it must be a whole number"):
        medusa_jax.generate(lm, PROMPTS[:1], batch_size=size)


def test_what_is_no_tree_is_refused(lm):
    for tree in ([[0]], 3):
        with pytest.raises(UserError, match=r"a tree is .*build_tree makes of a list of paths"):
            medusa_jax.generate(lm, PROMPTS[:1], tree=tree)


@pytest.mark.parametrize("numbers", [[-1], [2**32], [None], [0.5]])
def test_numbers_out_of_range_are_refused(lm, numbers):
    with pytest.raises(UserError, match=r"from 0 to 2\*\*32 - 1"):
        medusa_jax.generate(lm, PROMPTS[:1], numbers=numbers)
    with pytest.raises(UserError, match=r"from 0 to 2\*\*32 - 1"):
        medusa_jax.stream(lm, PROMPTS[0], numbers=numbers)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_beyond_64_bits_are_refused(seed):
    with pytest.raises(UserError, match=r"from 0 to 2\*\*64 - 1"):
        GenerationConfig(seed=seed)


def test_one_text_is_not_taken_for_a_list_of_letters(lm):
    for single in ("Why", {"role": "user", "content": "Why"}, {"Why"}, Encoded("Why", (1,))):
        for call in (medusa_jax.generate, medusa_jax.generate_batches):
            with pytest.raises(UserError, match="put a single prompt into a list"):
                call(lm, single)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": None}, "prompts is None: give a list of prompts"),
        ({"prompts": 5}, "prompts is 5: give a list of prompts"),
        ({"numbers": 3}, "numbers is 3: give a list with one per prompt"),
        ({"numbers": [3]}, "numbers has 1 entries for 2 prompts"),
        ({"each": {"temperature": 1.0}}, "each is {.*}: give a list with one per prompt"),
        ({"each": [{}]}, "each has 1 entries for 2 prompts"),
        ({"each": [{}, None]}, "each has None: give options by name"),
        ({"each": [{}, "ab"]}, "each has 'ab': give options by name"),
        ({"each": [{}, {"temprature": 1.0}]}, "no option 'temprature': did you mean temperature?"),
        ({"temprature": 1.0}, "there is no option 'temprature': did you mean temperature?"),
        ({"zzz": 1.0}, "there is no option 'zzz': choose from max_new_tokens, temperature"),
        ({"ignore_eos": "no"}, "ignore_eos is 'no': it must be True or False"),
        (
            {"logprobs": np.array([1, 2])},
            "logprobs is array.*: it must be True or False",
        ),
        ({"sampled_root": 1, "acceptance": "typical"}, "sampled_root is 1: it must be True or"),
    ],
)
def test_arguments_of_another_kind_are_refused_at_once(lm, options, message):
    prompts = options.get("prompts", ["One", "Two"])
    options = {name: value for name, value in options.items() if name != "prompts"}
    for call in (medusa_jax.generate_as_done, medusa_jax.generate_batches):
        with pytest.raises(UserError, match=message) as error:
            call(lm, prompts, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("messages", [None, "Hi", b"Hi", {"role": "user", "content": "Hi"}])
def test_a_conversation_is_a_list_of_messages(lm, messages):
    session = medusa_jax.Session(lm)
    with pytest.raises(UserError, match="give a list of messages"):
        session.reply(messages)
    for call in (medusa_jax.Session, lambda _, **options: session.change(**options)):
        with pytest.raises(UserError, match="there is no option 'seeed': did you mean seed"):
            call(lm, seeed=1)


def test_what_is_wrong_is_said_before_the_first_answer_is_asked_for(lm):
    for call in (medusa_jax.generate_as_done, medusa_jax.generate_batches, medusa_jax.stream):
        with pytest.raises(UserError, match="unknown tree"):
            call(lm, PROMPTS, tree="nonsense")


def test_half_of_a_surrogate_pair_is_refused(lm):
    with pytest.raises(UserError, match="not valid Unicode"):
        medusa_jax.generate(lm, ["Once \ud800"], chat=False)
