"""Replies are those of generate, one by one, whatever they are decoded with."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import medusa_jax
from medusa_jax import GenerationConfig
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.errors import UserError
from medusa_jax.nn.llama import Llama, causal_mask
from train.distill import replies
from train.distill.conversations import Conversation, read_conversations
from train.distill.dialogues import ReplySettings, check_context, select
from train.distill.replies import answer


@pytest.fixture(scope="module")
def lm(brief_chat_model):
    return medusa_jax.load(str(brief_chat_model), "none")


@pytest.fixture(scope="module")
def asked(long_conversations):
    return read_conversations(long_conversations, seed=0, max_turns=None, data_errors="stop")


def settings(*, max_new_tokens=24, batch_size=16, max_prompt_tokens=400, **options):
    generation = GenerationConfig(max_new_tokens=max_new_tokens, **options)
    return ReplySettings(generation, max_prompt_tokens, batch_size)


def rows_of(lm, conversations, chosen):
    return {row["id"]: row for batch in answer(lm, conversations, chosen) for row in batch.rows}


def replay(lm, conversation, max_prompt_tokens, max_new_tokens):
    """One conversation by itself."""
    turns, messages = [], []
    for question in conversation.questions:
        messages.append({"role": "user", "content": question})
        if len(encode_prompt(lm, messages).ids) > max_prompt_tokens:
            break
        (reply,) = medusa_jax.generate(lm, [messages], max_new_tokens=max_new_tokens)
        messages.append({"role": "assistant", "content": reply.text})
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": reply.text}]
        if reply.finish_reason == "length":
            return {"id": conversation.name, "conversations": turns, "truncated": True}
    return {"id": conversation.name, "conversations": turns, "truncated": False}


def test_multi_turn_replies_are_those_of_one_conversation_at_a_time(lm, asked):
    rows = rows_of(lm, asked, settings(max_prompt_tokens=110))
    assert rows == {c.name: replay(lm, c, 110, 24) for c in asked}
    turns = {c.name: len(c.questions) for c in asked}
    kinds = Counter(
        "cut off" if row["truncated"] else len(row["conversations"]) // 2 - turns[name]
        for name, row in rows.items()
    )
    # Some end with a cut reply, some after their last turn, some before too long a prompt.
    assert kinds["cut off"]
    assert kinds[0]
    assert kinds[-1]


def test_sampled_text_does_not_depend_on_the_batch(lm, asked):
    options = {"temperature": 1.0, "seed": 4}
    rows = rows_of(lm, asked, settings(**options))
    some = asked[::-2]
    assert rows_of(lm, some, settings(**options)) == {c.name: rows[c.name] for c in some}
    alone = asked[5]
    assert rows_of(lm, [alone], settings(**options)) == {alone.name: rows[alone.name]}
    assert rows_of(lm, asked, settings(temperature=1.0, seed=5)) != rows


def test_replies_are_drawn_from_the_whole_distribution(lm):
    draws, temperature = 3000, 1.5
    asked = [Conversation(f"n{i}", None, ("Tell me of Tim.",)) for i in range(draws)]
    chosen = settings(max_new_tokens=1, batch_size=600, temperature=temperature)
    rows = rows_of(lm, asked, chosen)
    found = Counter(row["conversations"][1]["value"] for row in rows.values())
    expected: Counter[str] = Counter()
    for token, p in enumerate(next_token_probabilities(lm, "Tell me of Tim.", temperature)):
        expected[lm.tokenizer.decode([token], skip_special_tokens=True)] += draws * p
    common = [text for text, count in expected.items() if count >= 5]
    rare = draws - sum(expected[text] for text in common)
    pairs = [(found[text], expected[text]) for text in common]
    pairs.append((draws - sum(found[text] for text in common), rare))
    chi_square = sum((f - e) ** 2 / e for f, e in pairs)
    freedom = len(pairs) - 1
    assert freedom > 20
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def next_token_probabilities(lm, question, temperature):
    ids = encode_prompt(lm, question).ids
    token_BT = jnp.asarray([ids], jnp.int32)
    position_BT = jnp.arange(len(ids), dtype=jnp.int32)[None]
    llama = Llama(lm.config, jnp.dtype(lm.dtype))
    params = {"params": lm.params}
    hidden_BTD, _ = llama.apply(params, token_BT, position_BT, causal_mask(len(ids)))
    logits_BTV = llama.apply(params, hidden_BTD, method="logits")
    return np.asarray(jax.nn.softmax(logits_BTV[0, -1] / temperature), np.float64)


def test_batches_are_full_and_rows_with_long_caches_are_fewer(lm, monkeypatch):
    asked = [Conversation(f"n{i}", None, (f"Say {i}.",)) for i in range(40)]
    chosen = settings(max_new_tokens=4)
    assert [len(batch.rows) for batch in answer(lm, asked, chosen)] == [16, 16, 8]
    monkeypatch.setattr(replies, "_FULL_SIZE_CAPACITY", 128)  # of 256
    assert [len(batch.rows) for batch in answer(lm, asked[:20], chosen)] == [8, 8, 4]


def test_the_choice_counts_only_conversations_that_can_be_asked(lm, asked):
    long = Conversation("long", None, ("word " * 300,))
    chosen = select(lm, [long, *asked], settings(), 3)
    assert chosen == asked[:3]
    assert select(lm, [long, *asked], settings(), None) == asked
    with pytest.raises(UserError, match=r"no conversation can be asked.* tokens"):
        select(lm, [long], settings(), 3)


def test_models_that_cannot_be_asked_are_refused(lm, stories260k):
    with pytest.raises(UserError, match="lower --max_new_tokens"):
        check_context(lm, settings(max_new_tokens=512))
    with pytest.raises(UserError, match="no chat template"):
        check_context(medusa_jax.load(str(stories260k), "none"), settings())
