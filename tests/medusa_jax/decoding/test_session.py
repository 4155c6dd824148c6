"""A conversation: what is run again, and that nothing of it is seen in the replies."""

import pytest

import medusa_jax
from medusa_jax import Session, UserError
from medusa_jax.decoding import admission, chunks
from medusa_jax.decoding.generate import encode_prompt

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
QUESTIONS = ["Tell me about a dog.", "And about Lily?", "What did they see in the park?"]


@pytest.fixture
def lm(stories_lm, monkeypatch):
    monkeypatch.setattr(stories_lm.tokenizer, "chat_template", TEMPLATE)
    return stories_lm


def reply(session, messages):
    events = list(session.reply(messages))
    assert [event.index for event in events] == [0] * len(events)
    assert "".join(event.text for event in events) == events[-1].result.text
    return events[-1].result


def talk(session, lm, **options):
    """Three turns, each compared with a call that runs everything; how much each turn ran."""
    messages, ran, lengths = [], [], []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        result = reply(session, messages)
        (whole,) = medusa_jax.generate(lm, [messages], **options)
        assert result.token_ids == whole.token_ids
        ran.append(session.prefilled_tokens)
        lengths.append(len(encode_prompt(lm, messages).ids))
        messages.append({"role": "assistant", "content": result.text})
    return ran, lengths


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}])
def test_only_new_tokens_are_run_and_replies_are_those_of_generate(lm, options):
    options = {"max_new_tokens": 40} | options
    ran, lengths = talk(Session(lm, **options), lm, **options)
    assert ran[0] == lengths[0]
    for turn in (1, 2):
        # The reply's tokens are those that the tokenizer makes of its text, up to the last word.
        new = lengths[turn] - lengths[turn - 1] - 40
        assert 0 < ran[turn] <= new + 6


def test_new_text_longer_than_a_chunk_and_a_cache_that_grows(lm, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 32)
    monkeypatch.setattr(admission, "CHUNK", 32)
    monkeypatch.setattr("medusa_jax.decoding.buckets._MIN_CAPACITY", 16)
    ran, lengths = talk(Session(lm, max_new_tokens=30), lm, max_new_tokens=30)
    assert lengths[0] > 16
    assert ran[1] < lengths[1] - lengths[0]


def test_another_conversation_shares_what_it_begins_with(lm):
    session = Session(lm, max_new_tokens=12)
    first = [{"role": "user", "content": "Tell me about a dog."}]
    other = [{"role": "user", "content": "Tell me about a cat."}]
    reply(session, first)
    result = reply(session, other)
    assert result.token_ids == medusa_jax.generate(lm, [other], max_new_tokens=12)[0].token_ids
    a, b = (encode_prompt(lm, messages).ids for messages in (first, other))
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert session.prefilled_tokens == len(b) - same
    reply(session, other)
    assert session.prefilled_tokens == 1  # the hidden state of the last token is not kept
    session.reset()
    reply(session, other)
    assert session.prefilled_tokens == len(b)


def test_a_reply_that_is_broken_off_costs_nothing_later(lm):
    session = Session(lm, max_new_tokens=30)
    messages = [{"role": "user", "content": "Tell me about a dog."}]
    events = session.reply(messages)
    shown = next(events).text + next(events).text + next(events).text
    events.close()
    messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": "Go on."}]
    result = reply(session, messages)
    assert session.prefilled_tokens < 20
    assert result.token_ids == medusa_jax.generate(lm, [messages], max_new_tokens=30)[0].token_ids


def test_stop_texts_end_a_reply_and_the_conversation_goes_on(lm):
    messages = [{"role": "user", "content": "Tell me about a dog."}]
    (free,) = medusa_jax.generate(lm, [messages], max_new_tokens=40)
    stop = free.text[30:33]
    session = Session(lm, max_new_tokens=40, stop=[stop])
    result = reply(session, messages)
    assert result.text == free.text[: free.text.index(stop)]
    messages += [{"role": "assistant", "content": result.text}, {"role": "user", "content": "Yes"}]
    again = reply(session, messages)
    (whole,) = medusa_jax.generate(lm, [messages], max_new_tokens=40, stop=[stop])
    assert again.token_ids == whole.token_ids


def test_a_conversation_over_the_context_is_refused_at_once(lm):
    session = Session(lm)
    long = [{"role": "user", "content": "dog " * lm.config.max_position}]
    with pytest.raises(UserError, match="context"):
        session.reply(long)
    with pytest.raises(UserError, match="num_samples"):
        Session(lm, num_samples=2)
