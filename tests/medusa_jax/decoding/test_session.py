"""A conversation: what is run again, and that the replies show nothing of it."""

import dataclasses

import pytest

import medusa_jax
from medusa_jax import Session, UserError
from medusa_jax.decoding.engine import admission, chunks
from medusa_jax.decoding.generate import encode_prompt

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
QUESTIONS = ["Tell me about a dog.", "And about Lily?", "What did they see in the park?"]


@pytest.fixture
def lm(short_lm, monkeypatch):
    monkeypatch.setattr(short_lm.tokenizer, "chat_template", TEMPLATE)
    return short_lm


def reply(session, messages):
    events = list(session.reply(messages))
    assert [event.index for event in events] == [0] * len(events)
    assert "".join(event.text for event in events) == events[-1].result.text
    return events[-1].result


def in_common(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def talk(session, lm, **options):
    """Three turns, each compared with a call that runs everything; what each turn had in common."""
    messages, known, shared = [], [], []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        ids = list(encode_prompt(lm, messages).ids)
        result = reply(session, messages)
        (whole,) = medusa_jax.generate(lm, [messages], **options)
        assert result.token_ids == whole.token_ids
        shared.append(in_common(known, ids))
        assert session.prefilled_tokens == len(ids) - shared[-1]
        known = ids + result.token_ids
        messages.append({"role": "assistant", "content": result.text})
    return shared


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}])
def test_only_new_tokens_are_run_and_replies_are_those_of_generate(lm, options):
    options = {"max_new_tokens": 40} | options
    shared = talk(Session(lm, **options), lm, **options)
    # At least the last prompt. The tokenizer may not give a reply's own tokens to its text.
    assert shared[0] == 0
    assert 15 < shared[1] < shared[2]


def test_new_text_longer_than_a_chunk_and_a_cache_that_grows(lm, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 32)
    monkeypatch.setattr(admission, "CHUNK", 32)
    monkeypatch.setattr("medusa_jax.decoding.buckets._MIN_CAPACITY", 16)
    talk(Session(lm, max_new_tokens=60), lm, max_new_tokens=60)


def test_another_conversation_shares_what_it_begins_with(lm):
    session = Session(lm, max_new_tokens=12)
    first = [{"role": "user", "content": "Tell me about a dog."}]
    other = [{"role": "user", "content": "Tell me about a cat."}]
    reply(session, first)
    result = reply(session, other)
    assert result.token_ids == medusa_jax.generate(lm, [other], max_new_tokens=12)[0].token_ids
    a, b = (encode_prompt(lm, messages).ids for messages in (first, other))
    assert session.prefilled_tokens == len(b) - in_common(a, b)
    reply(session, other)
    assert session.prefilled_tokens == 1  # the hidden state of the last token is not kept
    session.reset()
    reply(session, other)
    assert session.prefilled_tokens == len(b)


def test_a_short_conversation_does_not_keep_the_cache_of_a_long_one(lm, monkeypatch):
    """All begin with the same template or system prompt; a CPU reads all slots at every step."""
    monkeypatch.setattr("medusa_jax.decoding.buckets._MIN_CAPACITY", 16)
    session = Session(lm, max_new_tokens=8)
    long = [{"role": "user", "content": "Tell me about a dog. " * 30}]
    short = [{"role": "user", "content": "Tell me about a cat."}]
    reply(session, long)
    capacity = session._cache.capacity
    result = reply(session, short)
    assert session.prefilled_tokens < len(encode_prompt(lm, short).ids)
    assert 2 * session._cache.capacity <= capacity
    assert result.token_ids == medusa_jax.generate(lm, [short], max_new_tokens=8)[0].token_ids


def test_a_reply_that_is_broken_off_costs_nothing_later(lm):
    session = Session(lm, max_new_tokens=30)
    messages = [{"role": "user", "content": "Tell me about a dog."}]
    events = session.reply(messages)
    shown = [next(events) for _ in range(3)]
    events.close()
    known = [*encode_prompt(lm, messages).ids, *(t for event in shown for t in event.token_ids)]
    shown = "".join(event.text for event in shown)
    messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": "Go on."}]
    result = reply(session, messages)
    ids = encode_prompt(lm, messages).ids
    assert session.prefilled_tokens == len(ids) - in_common(known, ids)
    assert in_common(known, ids) > 15
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


def test_angles_that_followed_a_longer_prompt_are_not_kept(lm):
    rope = dataclasses.replace(lm.config.rope, kind="dynamic", factor=4.0, original_max_position=64)
    lm = dataclasses.replace(lm, config=dataclasses.replace(lm.config, rope=rope))
    session = Session(lm, max_new_tokens=12)
    long = [{"role": "user", "content": 12 * "Tell me about a dog. "}]
    short = [{"role": "user", "content": "Tell me about a cat."}]
    assert len(encode_prompt(lm, long).ids) > 64 > len(encode_prompt(lm, short).ids)
    reply(session, long)
    result = reply(session, short)
    assert session.prefilled_tokens == len(encode_prompt(lm, short).ids)
    assert result.token_ids == medusa_jax.generate(lm, [short], max_new_tokens=12)[0].token_ids


def test_a_tree_that_does_not_exist_is_refused_at_once(lm):
    with pytest.raises(UserError, match="unknown tree"):
        Session(lm, tree="nonsense")
    session = Session(lm)
    with pytest.raises(UserError, match="unknown tree"):
        session.change(tree="nonsense")
    assert reply(session, [{"role": "user", "content": "Hello"}]).num_new_tokens
