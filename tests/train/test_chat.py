"""Assistant spans by exact characters, on a word tokenizer whose template is known."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medusa_jax import UserError
from train.chat import tokenize

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER, ASSISTANT = "user", "assistant"


@pytest.fixture(scope="module")
def tokenizer():
    """One token per character, but for the special marks."""
    marks = ["<|user|>", "<|assistant|>", "<end>"]
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(marks + characters)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=TEMPLATE, clean_up_tokenization_spaces=False
    )


def labelled(tokenizer, example):
    ids = example.token_T[example.is_label_T]
    return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def talk(*contents):
    roles = [USER, ASSISTANT] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def test_content_and_end_mark_are_labels_and_nothing_else(tokenizer):
    example = tokenize(tokenizer, talk("hi", "yes"), truncated=False, max_length=99)
    assert labelled(tokenizer, example) == "yes<end>"
    assert len(example.token_T) == len(example.is_label_T)


def test_repeated_text_is_found_where_it_stands(tokenizer):
    """The original looks for the first substring and marks the user's copy."""
    example = tokenize(
        tokenizer, talk("same", "same", "same", "ame"), truncated=False, max_length=99
    )
    assert labelled(tokenizer, example) == "same<end>ame<end>"
    assert not example.is_label_T[:7].any()


def test_a_truncated_reply_has_no_end(tokenizer):
    example = tokenize(tokenizer, talk("hi", "cut of"), truncated=True, max_length=99)
    assert labelled(tokenizer, example) == "cut of"
    both = tokenize(tokenizer, talk("a", "b", "c", "d"), truncated=True, max_length=99)
    assert labelled(tokenizer, both) == "b<end>d"


def test_long_conversations_are_cut(tokenizer):
    example = tokenize(tokenizer, talk("hi", "yes"), truncated=False, max_length=7)
    assert len(example.token_T) == 7
    assert labelled(tokenizer, example) == "y"


def test_labels_are_what_the_model_is_asked_to_write(tokenizer):
    """Prompt tokens followed by label tokens are the beginning of the whole conversation."""
    messages = talk("what?", "this: 1+1=2")
    example = tokenize(tokenizer, messages, truncated=False, max_length=99)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    first = int(np.argmax(example.is_label_T))
    assert example.token_T[:first].tolist() == list(prompt)


def test_a_template_that_rewrites_turns_is_refused(tokenizer):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template="{{ messages | length }}" + TEMPLATE,
    )
    with pytest.raises(UserError, match="rewrites earlier turns"):
        tokenize(tokenizer, talk("a", "b", "c", "d"), truncated=False, max_length=99)
