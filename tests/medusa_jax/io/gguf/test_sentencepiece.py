"""SentencePiece vocabularies against their definition and the originals."""

import json
import random
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from medusa_jax.io.gguf.tokenizer import build_tokenizer
from tests.medusa_jax.io.gguf.vocabularies import (
    BYTE,
    CONTROL,
    CORPUS,
    NORMAL,
    UNKNOWN,
    random_texts,
    write,
)


def write_sentencepiece(path, tokens, scores, edit=lambda writer: None):
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    kinds += [NORMAL] * (len(tokens) - len(kinds))

    def edit_all(writer):
        writer.add_token_scores(scores)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        edit(writer)

    return write(path, tokens, kinds, edit_all, model="llama")


def reference_sentencepiece(text, score):
    """Joins the neighbours whose piece scores best, leftmost first; bytes for what is unknown."""
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [a + b for a, b in pairwise(parts)]
        known = [i for i, piece in enumerate(joined) if piece in score]
        if not known:
            break
        i = max(known, key=lambda i: score[joined[i]])
        parts = [*parts[:i], joined[i], *parts[i + 2 :]]
    pieces = []
    for part in parts:
        pieces += [part] if part in score else [f"<0x{byte:02X}>" for byte in part.encode()]
    return pieces


def sentencepiece_vocabulary():
    rng = random.Random(1)
    letters = sorted({char for char in CORPUS.replace(" ", "▁") if char < "\u2600"})
    words = [word for word in CORPUS.replace(" ", " ▁").split(" ") if word.isascii() or "▁" in word]
    pieces = {word[:end] for word in words for end in range(2, 6) if len(word) >= end}
    pieces |= {word[cut : cut + 2] for word in words for cut in range(len(word) - 1)}
    pieces = sorted(piece for piece in pieces if all(char in letters for char in piece))
    rng.shuffle(pieces)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += pieces + letters
    return tokens, [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]


def test_sentencepiece_against_its_definition(tmp_path):
    tokens, scores = sentencepiece_vocabulary()
    path = write_sentencepiece(tmp_path / "m.gguf", tokens, scores)
    tokenizer = build_tokenizer(path)
    score = dict(list(zip(tokens, scores, strict=True))[259:])
    for text in [CORPUS[:200], " ", "a", *random_texts(150)]:
        pieces = reference_sentencepiece(text, score)
        ids = tokenizer(text)["input_ids"]
        assert ids == [1] + [tokens.index(piece) for piece in pieces], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_sentencepiece_without_prefix_space(tmp_path):
    tokens, scores = sentencepiece_vocabulary()
    path = write_sentencepiece(
        tmp_path / "m.gguf", tokens, scores, lambda w: w.add_add_space_prefix(False)
    )
    tokenizer = build_tokenizer(path)
    assert tokenizer.tokenize("a")[0] == "a"
    assert tokenizer.decode(tokenizer(" a")["input_ids"], skip_special_tokens=True) == " a"


@pytest.mark.parametrize("name", ["stories260k", "stories15m"])
def test_sentencepiece_equals_the_original(tmp_path, name, request):
    """Scores fall with the rank of the merge that makes the piece; runs of spaces come last."""
    file = request.getfixturevalue(name) / "tokenizer.json"
    model = json.loads(file.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    rank = {}
    for index, merge in enumerate(model["merges"]):
        rank.setdefault(merge.replace(" ", "") if isinstance(merge, str) else "".join(merge), index)
    scores = [-float(rank.get(token, 10**6)) for token in tokens]
    rebuilt = build_tokenizer(write_sentencepiece(tmp_path / "m.gguf", tokens, scores))
    original = Tokenizer.from_file(str(file))
    for text in [CORPUS, *(" " * n + "x" for n in range(30)), *random_texts(200)]:
        assert rebuilt(text)["input_ids"] == original.encode(text).ids, text
