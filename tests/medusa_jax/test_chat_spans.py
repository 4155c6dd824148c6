"""Labels are whole tokens: one that begins in the header or ends after the reply is none."""

from collections.abc import Iterable

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medusa_jax.chat import tokenize

# The reply comes after a line break, and the template puts a full stop after it.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}.<end>{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)
# Words take along the line break before them, and the full stop after them.
WORD = r"\n?\w+\.?|."
TEXTS = ("user", "\nWhy.", "assistant", "\nYes", "\nYes.", " ", "it", "it.", "is", "is.", "<end>")


def tokenizer_of(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    core.add_special_tokens([AddedToken("<end>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE)


def labels_of(reply: str, *, truncated: bool) -> tuple[list[str], list[str]]:
    """All tokens of a conversation, and those that are labels."""
    tokenizer = tokenizer_of(TEXTS)
    messages = [{"role": "user", "content": "Why"}, {"role": "assistant", "content": reply}]
    example = tokenize(tokenizer, messages, truncated=truncated, max_length=99)
    tokens = tokenizer.convert_ids_to_tokens(example.token_T.tolist())
    return tokens, [t for t, is_label in zip(tokens, example.is_label_T, strict=True) if is_label]


@pytest.mark.parametrize(
    ("reply", "truncated", "labels"),
    [
        ("Yes it is", False, [" ", "it", " ", "is.", "<end>"]),
        ("Yes", False, ["<end>"]),
        # What the template adds to a reply that was cut off is not the model's.
        ("Yes it is", True, [" ", "it", " "]),
        ("Yes it", True, [" "]),
        ("Yes", True, []),
    ],
)
def test_a_token_across_the_end_of_the_header_or_of_the_reply(reply, truncated, labels):
    tokens, found = labels_of(reply, truncated=truncated)
    assert tokens[:4] == ["user", "\nWhy.", "<end>", "assistant"]
    assert tokens[4].startswith("\nYes")
    assert found == labels


def test_a_template_that_trims_a_reply_that_was_cut_off():
    tokenizer = tokenizer_of(TEXTS)
    tokenizer.chat_template = TEMPLATE.replace("m.content", "m.content | trim")
    messages = [
        {"role": "user", "content": "Why"},
        {"role": "assistant", "content": 12 * " " + "Yes it"},
    ]
    example = tokenize(tokenizer, messages, truncated=True, max_length=99)
    tokens = tokenizer.convert_ids_to_tokens(example.token_T.tolist())
    assert [t for t, is_label in zip(tokens, example.is_label_T, strict=True) if is_label] == [" "]
