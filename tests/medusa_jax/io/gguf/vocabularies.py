"""Texts to tokenize, and GGUF files that hold a vocabulary and nothing else."""

import random

import gguf

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
CORPUS = (
    "It's 2024: I'll pay 12345 dollars, they're told. Wasn't it 3.14?\n\n  def f(x):\n\treturn x\n"
    "Größe café 日本語の文 привет мир 😀 ... the the the there then that  this   is 1000000 100\r\n"
) * 3
POOLS = (
    *("abc XYZ the that", "0123456789", "\n\t \r  ", "äöüßéñ", "日本語テスト", "😀👩‍👩‍👧🏳️‍🌈"),
    *(
        "ไทย हिन्दी العربية",
        "(){}[];:=<>!&|#@$%^*",
        "\x00\x7f\u200b\ufeff½ⅷ٣٤",
        "'s 're I'll don't . , ! ?",
    ),
)


def random_texts(count):
    rng = random.Random(0)
    for _ in range(count):
        yield "".join(rng.choice(rng.choice(POOLS)) for _ in range(rng.randrange(1, 60)))


def write(path, tokens, kinds, edit, model="gpt2"):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    edit(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
