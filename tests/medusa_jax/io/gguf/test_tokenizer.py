"""Rebuilt tokenizers against plain-Python encoders of the same vocabulary and the originals."""

from itertools import pairwise

import pytest
import regex
from tokenizers.decoders import DecodeStream

from medusa_jax.errors import UserError
from medusa_jax.io.cache import cache_dir
from medusa_jax.io.gguf.tokenizer import build_tokenizer
from tests.medusa_jax.io.gguf.vocabularies import (
    CONTROL,
    CORPUS,
    NORMAL,
    USER,
    random_texts,
    write,
)

CHAT = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
_CONTRACTIONS = r"'(?:[sdmt]|ll|ve|re)"
GPT2_WORDS = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# As published in the models' tokenizer.json.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace("{1,3}", "")


def gpt2_words(text):
    return regex.findall(GPT2_WORDS, text)


def smollm_words(text):
    """Every numeric character alone, GPT-2's words between them."""
    parts = regex.split(r"(\p{N})", text)
    return [word for part in parts for word in gpt2_words(part)]


WORDS = {
    "gpt-2": gpt2_words,
    "smollm": smollm_words,
    "llama-bpe": lambda text: regex.findall(LLAMA3_WORDS, text),
    "qwen2": lambda text: regex.findall(QWEN2_WORDS, text),
}


def byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


SYMBOLS = byte_symbols()


def to_symbols(word):
    return [SYMBOLS[byte] for byte in word.encode()]


def apply_merges(parts, ranks):
    while len(parts) > 1:
        pairs = [(ranks.get(pair, 10**9), i) for i, pair in enumerate(pairwise(parts))]
        rank, i = min(pairs)
        if rank == 10**9:
            break
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
    return parts


def learn_merges(words, count):
    """Textbook BPE training: merge the most frequent pair, at most `count` times."""
    words, ranks = [to_symbols(word) for word in words], {}
    while len(ranks) < count:
        pairs = [pair for word in words for pair in pairwise(word)]
        if not pairs:
            break
        best = max(sorted(set(pairs)), key=pairs.count)
        ranks[best] = len(ranks)
        words = [apply_merges(word, {best: 0}) for word in words]
    return ranks


SPECIALS = {"<|turn|>": CONTROL, "<|end|>": CONTROL, "<tool>": USER}


def write_byte_level(path, pre, ranks, edit=lambda writer: None):
    tokens = [*SPECIALS, *SYMBOLS, *(left + right for left, right in ranks)]
    tokens = list(dict.fromkeys(tokens))
    kinds = [SPECIALS.get(token, NORMAL) for token in tokens]

    def edit_all(writer):
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([f"{left} {right}" for left, right in ranks])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_pad_token_id(1)
        writer.add_chat_template(CHAT)
        edit(writer)

    return write(path, tokens, kinds, edit_all), tokens


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """pre-tokenizer name -> (tokenizer without BOS, plain-Python encoder)."""
    made = {}
    for pre, words in WORDS.items():
        ranks = learn_merges(words(CORPUS), 150)
        path = tmp_path_factory.mktemp("gguf") / f"{pre}.gguf"
        path, tokens = write_byte_level(path, pre, ranks, lambda w: w.add_add_bos_token(False))
        index = {token: i for i, token in enumerate(tokens)}

        def encode(text, words=words, ranks=ranks, index=index):
            pieces = [apply_merges(to_symbols(word), ranks) for word in words(text)]
            return [index[piece] for word in pieces for piece in word]

        made[pre] = build_tokenizer(path), encode
    return made


@pytest.mark.parametrize("pre", WORDS)
def test_encodes_as_plain_python_does_and_decodes_exactly(byte_level, pre):
    tokenizer, encode = byte_level[pre]
    for text in [CORPUS, "", " ", *random_texts(200)]:
        ids = tokenizer(text)["input_ids"]
        assert ids == encode(text), text
        assert tokenizer.decode(ids) == text


def test_digits(byte_level):
    """The rule that transformers' own GGUF reader loses."""
    pieces = {pre: len(byte_level[pre][0].tokenize("1000000")) for pre in WORDS}
    assert pieces["smollm"] == pieces["qwen2"] == 7
    assert pieces["gpt-2"] < 7


def test_qwen_composes_characters(byte_level):
    ids = [byte_level["qwen2"][0](text)["input_ids"] for text in ("é", "e\u0301")]
    assert ids[0] == ids[1]
    ids = [byte_level["smollm"][0](text)["input_ids"] for text in ("é", "e\u0301")]
    assert ids[0] != ids[1]


def test_a_whole_word_needs_no_merges_in_llama3(tmp_path):
    ranks = {("a", "b"): 0, ("c", "d"): 1, ("b", "c"): 2, ("ab", "c"): 3, ("bc", "d"): 4}
    del ranks["ab", "c"]
    for pre, expected in (("llama-bpe", ["bcd"]), ("smollm", ["b", "cd"])):
        path, _ = write_byte_level(tmp_path / f"{pre}.gguf", pre, ranks)
        assert build_tokenizer(path).tokenize("bcd") == expected


def test_special_tokens_and_chat_template(byte_level):
    tokenizer, encode = byte_level["smollm"]
    messages = [{"role": "user", "content": "It's 2024 <tool>"}]
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    text = "user\nIt's 2024 "
    assert ids == [0, *encode(text), 2, 1, *encode("\n")]
    assert tokenizer.decode(ids) == f"<|turn|>{text}<tool><|end|>\n"
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{text}<tool>\n"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)
    assert tokenizer.model_max_length == 128


@pytest.mark.parametrize(
    ("pre", "add_bos", "expected"),
    [
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
        ("smollm", None, False),
        ("smollm", True, True),
    ],
)
def test_bos(tmp_path, pre, add_bos, expected):
    def edit(writer):
        if add_bos is not None:
            writer.add_add_bos_token(add_bos)

    path, _ = write_byte_level(tmp_path / "m.gguf", pre, {("a", "b"): 0}, edit)
    tokenizer = build_tokenizer(path)
    assert (tokenizer("ab")["input_ids"][0] == 0) == expected
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [259]


def test_streamed_text_is_the_text(byte_level):
    tokenizer, _ = byte_level["smollm"]
    text = "Hello 😀 日本語, don't stop , ok ? \n\n  def f(): return [1, 2]\t"
    ids = tokenizer(f"{text}<|end|>")["input_ids"]
    stream = DecodeStream(skip_special_tokens=True)
    parts = [stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids]
    assert "".join(parts) == text
    assert sum(map(bool, parts)) > 20


def assert_refused(path, message):
    with pytest.raises(UserError, match=message) as info:
        build_tokenizer(path)
    assert len(str(info.value).splitlines()) == 1
    assert str(path) in str(info.value)


def test_refuses_what_it_does_not_know(tmp_path):
    path, _ = write_byte_level(tmp_path / "pre.gguf", "chameleon", {("a", "b"): 0})
    assert_refused(path, "'chameleon' is not supported, only gpt-2, llama-bpe")
    path = write(tmp_path / "kind.gguf", ["a"], [NORMAL], lambda w: None, model="rwkv")
    assert_refused(path, "kind 'rwkv', only gpt2 and llama work")


def test_refuses_broken_vocabularies(tmp_path):
    path = write(tmp_path / "m.gguf", ["a"], [NORMAL], lambda w: w.add_tokenizer_pre("smollm"))
    assert_refused(path, "tokenizer.ggml.merges")

    def impossible_merge(writer):
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(["a b"])

    path = write(tmp_path / "m.gguf", ["a", "b"], [NORMAL] * 2, impossible_merge)
    assert_refused(path, "merge 'a b' makes no known token")
    path = write(tmp_path / "m.gguf", ["a", "a"], [NORMAL] * 2, impossible_merge)
    assert_refused(path, "twice")
    path, _ = write_byte_level(
        tmp_path / "m.gguf", "smollm", {("a", "b"): 0}, lambda w: w.add_unk_token_id(10**6)
    )
    assert_refused(path, "broken")


def test_default_model():
    path = cache_dir() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip("the default model has not been downloaded yet")
    tokenizer = build_tokenizer(path)
    messages = [{"role": "user", "content": "2024"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    # <|im_start|>system ... Hugging Face<|im_end|>, then the user's and the assistant's turn.
    system = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018]
    system += [411, 407, 19712, 8182, 2, 198]
    user = [1, 4093, 198, 34, 32, 34, 36, 2, 198]
    assert ids == [*system, *user, 1, 520, 9531, 198]
    for text in [CORPUS, *random_texts(200)]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
