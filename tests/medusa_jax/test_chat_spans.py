"""Labels are whole tokens: one that begins in the header or ends after the reply is none."""

from collections.abc import Iterable

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
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


def byte_tokenizer(post_processor=None) -> PreTrainedTokenizerFast:
    """A token per byte, as byte-level models have them, and one for two spaces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: i for i, text in enumerate([*alphabet, "\u0120\u0120", "<end>"])}
    core = Tokenizer(models.BPE(vocab, [("\u0120", "\u0120")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<end>", special=True)])
    if post_processor:
        core.post_processor = post_processor
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE)


def labelled(tokenizer, reply: str, *, truncated: bool = False) -> list[int]:
    messages = [{"role": "user", "content": "Why"}, {"role": "assistant", "content": reply}]
    example = tokenize(tokenizer, messages, truncated=truncated, max_length=999)
    return example.token_T[example.is_label_T].tolist()


@pytest.mark.parametrize("reply", ["  if x:\n    y", "Yes  it\n\n  is", "x"])
def test_white_space_that_a_tokenizer_leaves_out_of_its_offsets(reply):
    """It is the model's all the same, but for the header's line break."""
    trims = processors.ByteLevel(trim_offsets=True)
    written = [*byte_tokenizer().encode(reply + ".<end>", add_special_tokens=False)]
    assert labelled(byte_tokenizer(), reply) == written
    assert labelled(byte_tokenizer(trims), reply) == written


def test_the_white_space_of_a_header_is_no_label():
    """Trimmed, it lies where the reply begins."""
    tokenizer = byte_tokenizer(processors.ByteLevel(trim_offsets=True))
    tokenizer.chat_template = TEMPLATE.replace("\n", " ")
    assert labelled(tokenizer, "x  y") == byte_tokenizer().encode("x  y.<end>")


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_a_reply_that_ends_inside_a_character(length):
    """Nothing stands for the character: the model never wrote the replacement's tokens."""
    tokenizer = byte_tokenizer()
    whole = tokenizer.encode("Yes \N{FLAMINGO}", add_special_tokens=False)
    text = tokenizer.decode(whole[: 4 + length])
    assert text.endswith("\ufffd") == (0 < length < 4)
    written = tokenizer.encode("Yes" if 0 < length < 4 else text.rstrip())
    assert labelled(tokenizer, text, truncated=True) == written


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
