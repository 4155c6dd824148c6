"""A conversation says what its model says to the whole of it, and runs only what is new."""

import itertools

import pytest

import medusa_jax
from infer.conversation.talk import Talk
from infer.prompts import read_prompt_file
from medusa_jax import GenerationConfig, UserError
from medusa_jax.chat import encode_text

QUESTIONS = ["Once upon a time", "The cat saw a dog", "Lily"]
CONFIG = GenerationConfig(max_new_tokens=24)


@pytest.fixture(scope="module")
def lm(chat_model, heads):
    return medusa_jax.load(str(chat_model), str(heads), dtype="float32", tree="mc_sim_7b_63:16")


@pytest.fixture
def talk(lm):
    return Talk(lm, CONFIG, None)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def say(talk, text):
    """The answer, and its text as it was shown."""
    events = list(talk.ask(text))
    return events[-1].result, "".join(event.text for event in events)


def expected(lm, messages, **options):
    (result,) = medusa_jax.generate(lm, [messages], **{"max_new_tokens": 24} | options)
    return result


def common(a, b):
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def test_every_turn_is_what_the_model_says_to_the_whole_conversation(lm, talk):
    messages = []
    for question in QUESTIONS:
        messages.append(user(question))
        result, shown = say(talk, question)
        assert result.token_ids == expected(lm, messages).token_ids
        assert shown == result.text
        messages.append(assistant(result.text))
        assert talk.messages == messages


def test_a_turn_runs_only_what_is_new(lm, talk):
    ids, known = [], []
    for turn, question in enumerate(QUESTIONS):
        result, _ = say(talk, question)
        ids = encode_text(lm.tokenizer, talk.messages[:-1], True)
        assert talk.new_tokens == len(ids) - common(known, ids)
        assert turn == 0 or talk.new_tokens < len(ids) / 2
        known = [*ids, *result.token_ids]


def test_the_same_system_message_begins_every_conversation(lm):
    system = {"role": "system", "content": "Tell a story."}
    talk = Talk(lm, CONFIG, "Tell a story.")
    for _ in range(2):
        result, _ = say(talk, "Once")
        assert result.token_ids == expected(lm, [system, user("Once")]).token_ids
        assert talk.new_tokens == len(encode_text(lm.tokenizer, [system, user("Once")], True))
        talk.reset()
        assert talk.messages == [system]


def test_an_answer_that_is_broken_off_stays_as_far_as_it_got(lm, talk):
    whole = expected(lm, [user("Once")])
    events = talk.ask("Once")
    shown = "".join(next(events).text for _ in range(4))
    events.close()
    assert 0 < len(shown) < len(whole.text)
    assert whole.text.startswith(shown)
    assert talk.messages == [user("Once"), assistant(shown)]
    result, _ = say(talk, "The cat")
    assert result.token_ids == expected(lm, [*talk.messages[:2], user("The cat")]).token_ids
    assert talk.new_tokens < len(encode_text(lm.tokenizer, talk.messages[:-1], True)) / 2


def test_a_question_without_any_answer_is_forgotten(lm, talk):
    say(talk, "Once")
    before = list(talk.messages)
    talk.ask("The cat").close()
    assert talk.messages == before


def test_what_does_not_fit_changes_nothing(lm, talk):
    say(talk, "Once")
    before = list(talk.messages)
    with pytest.raises(UserError, match=r"only 512: shorten the prompt, or begin .* /reset"):
        say(talk, "word " * 600)
    assert talk.messages == before
    result, _ = say(talk, "The cat")
    assert result.token_ids == expected(lm, [*before, user("The cat")]).token_ids


def test_another_tree_makes_the_same_answers_in_other_steps(lm, talk):
    assert talk.describe_tree() == "tree of 16 nodes"
    first, _ = say(talk, "Once")
    talk.use_tree("chain:0")
    assert talk.describe_tree() == "plain decoding"
    second, _ = say(talk, "The cat")
    conversation = [user("Once"), assistant(first.text), user("The cat")]
    assert second.token_ids == expected(lm, conversation).token_ids
    assert first.num_steps < len(first.token_ids)
    assert second.num_steps == len(second.token_ids)
    ids = encode_text(lm.tokenizer, conversation, True)
    assert talk.new_tokens < len(ids) / 2  # what was run before the change is not run again
    talk.use_tree("auto")
    assert talk.describe_tree() == "tree auto"
    talk.use_tree("chain:0")
    with pytest.raises(UserError, match="needs 5 heads"):
        talk.use_tree("chain:5")
    assert talk.describe_tree() == "plain decoding"


def test_a_system_prompt_alone_takes_nothing_yet(lm, monkeypatch):
    """Llama 2's template makes nothing of it, and others refuse it."""
    template = "{% if messages[1:] %}Q {{ messages[1]['content'] }}{% endif %}"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    talk = Talk(lm, CONFIG, "Answer briefly.")
    assert "; 0 of 512 tokens" in talk.describe()
    say(talk, "Once")
    assert "; 0 of 512 tokens" not in talk.describe()
    talk.reset()
    assert "; 0 of 512 tokens" in talk.describe()


def test_counts_so_far(lm, talk):
    assert talk.describe() == (
        "no answers yet, tree of 16 nodes; 0 of 512 tokens of the context are used"
    )
    results = [say(talk, question)[0] for question in QUESTIONS[:2]]
    steps = sum(result.num_steps for result in results)
    assert talk.describe().startswith(f"2 answers, 48 tokens in {steps} steps: ")
    used = len(encode_text(lm.tokenizer, talk.messages, True))
    assert talk.describe().endswith(f"; {used} of 512 tokens of the context are used")
    talk.reset()
    assert talk.describe().startswith("no answers yet")


def test_a_saved_conversation_is_a_row_for_others_to_read(talk, tmp_path):
    with pytest.raises(UserError, match="no conversation yet"):
        talk.save(str(tmp_path / "a.jsonl"))
    assert list(tmp_path.iterdir()) == []
    say(talk, "Once\u2028upon\na time, \u00e4")
    talk.save(str(tmp_path / "a.jsonl"))
    assert read_prompt_file(tmp_path / "a.jsonl") == [talk.messages]
    with pytest.raises(UserError, match="cannot write"):
        talk.save(str(tmp_path / "none" / "a.jsonl"))


def test_a_conversation_needs_a_template(backbone):
    with pytest.raises(UserError, match="no chat template"):
        Talk(backbone, CONFIG, None)
