"""Assistant spans by exact characters, with templates of well-known models written out here."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from medusa_jax import UserError
from medusa_jax.chat import decode_tokens, encode_text, mark, tokenize
from tests.train.data.samples import TEMPLATE, character_tokenizer

USER, ASSISTANT = "user", "assistant"

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set text = '<|begin_of_text|>' + text %}{% endif %}"
    "{{ text }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + "
    "'</s>' }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + '</s>' }}\n"
    "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + '</s>' }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
    "{% endif %}\n{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.first %}{{ '<s>A chat.' }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ ' USER: ' + m['content'] }}"
    "{% else %}{{ ' ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
MARKS = (
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|begin_of_text|>", "<|user|>", "<|assistant|>", "<|system|>", "<s>", "</s>"),
)
# Template, what the model writes in front of the content, and its end mark.
TEMPLATES = {
    "chatml": (CHATML, "", "<|im_end|>"),
    "llama3": (LLAMA3, "", "<|eot_id|>"),
    "zephyr": (ZEPHYR, "", "</s>"),
    "vicuna": (VICUNA, " ", "</s>"),
}


def labelled(tokenizer, example):
    ids = example.token_T[example.is_label_T]
    return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))


def talk(*contents, roles=(USER, ASSISTANT)):
    return [{"role": roles[i % len(roles)], "content": c} for i, c in enumerate(contents)]


@pytest.fixture(params=TEMPLATES)
def template(request):
    text, lead, end = TEMPLATES[request.param]
    return request.param, character_tokenizer(text, MARKS), lead, end


CONVERSATIONS = [
    ("hi", "yes"),
    ("same", "same", "same", "ame"),
    ("assistant\n", "user\n", "USER: ASSISTANT: x", "ASSISTANT: USER: x"),
    ("a", "", "b", ""),
    ("a", "text", "b", "", "c", "text"),
]


@pytest.mark.parametrize("contents", CONVERSATIONS)
def test_labels_are_each_content_and_its_end_mark(template, contents):
    name, tokenizer, lead, end = template
    example = tokenize(tokenizer, talk(*contents), truncated=False, max_length=9999)
    replies = [reply.strip() if name == "llama3" else reply for reply in contents[1::2]]
    assert labelled(tokenizer, example) == "".join(lead + reply + end for reply in replies)


@pytest.mark.parametrize("contents", [("q", "  two words \n"), (" q ", "\n\tx", "q", " ")])
def test_white_space_at_the_ends_of_a_reply_is_its_own(template, contents):
    name, tokenizer, lead, end = template
    example = tokenize(tokenizer, talk(*contents), truncated=False, max_length=9999)
    replies = [reply.strip() if name == "llama3" else reply for reply in contents[1::2]]
    # The character tokenizer knows no tab.
    expected = "".join(lead + reply + end for reply in replies).replace("\t", " ")
    assert labelled(tokenizer, example) == expected


def test_labels_follow_the_prompt_that_generation_uses(template):
    """Tokens before the first label are the tokens of the prompt; none of them is a label."""
    _, tokenizer, _, _ = template
    messages = talk("what?", "this: 1+1=2", "and?", "4")
    example = tokenize(tokenizer, messages, truncated=False, max_length=9999)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)["input_ids"]
    first = int(np.argmax(example.is_label_T))
    assert example.token_T[:first].tolist() == list(prompt)
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    assert example.token_T.tolist() == list(whole)


@pytest.mark.parametrize("contents", CONVERSATIONS)
def test_every_prompt_is_the_beginning_of_the_labels_text(template, contents):
    """A model is asked in the very characters that it is trained on, turn after turn."""
    _, tokenizer, _, _ = template
    messages = talk(*contents)
    marked = mark(tokenizer, messages)
    example = tokenize(tokenizer, messages, truncated=False, max_length=9999)
    for (first, _), turn in zip(marked.spans, range(1, len(messages), 2), strict=True):
        ids = encode_text(tokenizer, messages[:turn], None)
        assert ids == encode_text(tokenizer, messages[:turn], True)
        assert example.token_T[: len(ids)].tolist() == ids
        assert "".join(tokenizer.convert_ids_to_tokens(ids)) == marked.text[:first]


def test_a_text_is_the_user_s_message_unless_it_is_asked_for_as_it_stands():
    tokenizer = character_tokenizer(CHATML, MARKS)
    message = [{"role": USER, "content": "hi"}]
    assert encode_text(tokenizer, "hi", None) == encode_text(tokenizer, message, None)
    plain = encode_text(tokenizer, "hi", False)
    assert "".join(tokenizer.convert_ids_to_tokens(plain)) == "hi"


def test_prompts_and_labels_are_refused_in_the_same_words():
    tokenizer = character_tokenizer("{{ raise_exception('not today') }}")
    with pytest.raises(UserError) as of_prompt:
        encode_text(tokenizer, talk("a"), None)
    with pytest.raises(UserError) as of_labels:
        tokenize(tokenizer, talk("a", "b"), truncated=False, max_length=99)
    assert str(of_prompt.value) == str(of_labels.value)


def test_spaces_before_punctuation_stay():
    """transformers takes them away where a tokenizer asks for it, as Llama 3's does."""
    words = ["<unk>", "if", "x", "!=", "y", ",", "he", "said", "."]
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True)
    ids = list(range(1, len(words)))
    assert tokenizer.decode(ids) == "if x!= y, he said."
    assert decode_tokens(tokenizer, ids) == "if x != y , he said ."


def test_a_truncated_reply_has_no_end(template):
    _, tokenizer, lead, end = template
    both = tokenize(tokenizer, talk("a", "b", "c", "cut of"), truncated=True, max_length=9999)
    assert labelled(tokenizer, both) == f"{lead}b{end}{lead}cut of"


def test_a_system_message_is_no_label():
    tokenizer = character_tokenizer(CHATML, MARKS)
    roles = ("system", USER, ASSISTANT)
    example = tokenize(tokenizer, talk("be", "a", "b", roles=roles), truncated=False, max_length=99)
    assert labelled(tokenizer, example) == "b<|im_end|>"


def test_a_reply_at_the_beginning_is_learned_or_left_out(template):
    """Chunks of ShareGPT begin anywhere; Vicuna's template takes no reply without a question."""
    name, tokenizer, lead, end = template
    messages = talk("same", "same", "b", roles=(ASSISTANT, USER))
    example = tokenize(tokenizer, messages, truncated=False, max_length=9999)
    expected = ["same", "b"]
    if name == "vicuna":
        messages = talk("same", "a", "b", roles=(ASSISTANT, USER, ASSISTANT))
        example = tokenize(tokenizer, messages, truncated=False, max_length=9999)
        expected = ["b"]
    assert labelled(tokenizer, example) == "".join(lead + reply + end for reply in expected)


def test_long_conversations_are_cut():
    tokenizer = character_tokenizer(TEMPLATE)
    example = tokenize(tokenizer, talk("hi", "yes"), truncated=False, max_length=7)
    assert len(example.token_T) == len(example.is_label_T) == 7
    assert labelled(tokenizer, example) == "y"


def test_subwords_and_characters_of_many_bytes():
    """Tokens of byte-level BPE may be parts of a character; the labels decode to the text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["hello there, hello world"] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=CHATML)
    reply = "hello ü \U0001f600\U0001f468\u200d\U0001f469 world"
    example = tokenize(tokenizer, talk("hello 😀", reply), truncated=False, max_length=999)
    ids = example.token_T[example.is_label_T].tolist()
    assert tokenizer.decode(ids) == reply + "<|im_end|>"
    assert len(ids) > len(reply) / 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages | length }}" + TEMPLATE, "rewrites earlier turns"),
        ("{% for m in messages %}{{ m.content if loop.last else '' }}{% endfor %}", "rewrites"),
        ("{{ raise_exception('not today') }}", "refuses the conversation: not today"),
        (None, "has no chat template"),
    ],
)
def test_templates_that_cannot_be_used_are_refused_in_one_line(template, message):
    tokenizer = character_tokenizer(template)
    with pytest.raises(UserError, match=message) as error:
        tokenize(tokenizer, talk("a", "b", "c", "d"), truncated=False, max_length=99)
    assert "\n" not in json.dumps(str(error.value))
