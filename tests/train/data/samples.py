"""A tokenizer with one token per character, and ShareGPT rows."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MARKS = ["<|user|>", "<|assistant|>", "<|system|>", "<end>", "<s>", "</s>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def character_tokenizer(template=TEMPLATE, marks=tuple(MARKS), **kwargs):
    """One token per character, but for the special marks."""
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate([*marks, *characters])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.add_special_tokens(list(marks))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, chat_template=template, clean_up_tokenization_spaces=False, **kwargs
    )


def row(*contents, name="c_0", speakers=("human", "gpt")):
    turns = [
        {"from": speakers[i % len(speakers)], "value": content}
        for i, content in enumerate(contents)
    ]
    return {"id": name, "conversations": turns}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)
