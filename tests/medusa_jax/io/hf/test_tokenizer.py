"""Tests medusa_jax/io/hf/tokenizer.py."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.hf.tokenizer import load_tokenizer


@pytest.fixture
def words(tmp_path):
    """A folder whose tokenizer knows three words."""
    vocab = {"<unk>": 0, "hello": 1, "world": 2}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "world"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def refuse(folder) -> str:
    with pytest.raises(UserError) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_loads(words):
    tokenizer = load_tokenizer(words)
    assert tokenizer("hello world foo")["input_ids"] == [1, 2, 0]
    assert tokenizer.eos_token_id == 2


def test_loads_a_real_one(stories15m):
    tokenizer = load_tokenizer(stories15m)
    ids = tokenizer("Once upon a time")["input_ids"]
    assert ids == [1, 9038, 2501, 263, 931]  # Llama-2's vocabulary
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Once upon a time"


def test_says_nothing_of_its_own(words):
    code = "import sys; from medusa_jax.io.hf.tokenizer import load_tokenizer as f; f(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", code, str(words)], check=True, capture_output=True, text=True
    )
    assert (run.stdout, run.stderr) == ("", "")


def test_missing(tmp_path):
    assert "tokenizer.json" in refuse(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "version https://git-lfs.github.com/spec/v1"])
def test_broken(words, content):
    (words / "tokenizer.json").write_text(content)
    assert "cannot be loaded" in refuse(words)


def test_only_a_sentencepiece_model(stories15m, tmp_path):
    for name in ("tokenizer.model", "tokenizer_config.json", "config.json"):
        shutil.copy(stories15m / name, tmp_path / name)
    if importlib.util.find_spec("sentencepiece") is None:
        assert "pip install sentencepiece" in refuse(tmp_path)
    else:
        assert load_tokenizer(tmp_path)("Once upon a time")["input_ids"] == [
            1,
            9038,
            2501,
            263,
            931,
        ]


def test_the_oldest_chat_models_get_the_template_they_were_trained_with(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models--lmsys--vicuna-7b-v1.5") / "snapshots" / "1"
    shutil.copytree(words, folder)
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    text = load_tokenizer(folder).apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    # FastChat's get_conv_template("vicuna_v1.1").get_prompt() of these turns, </s> being the end.
    system = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions."
    )
    assert text == f"{system} USER: Hi ASSISTANT: Hello.worldUSER: Bye ASSISTANT:"
    briefly = [{"role": "system", "content": "Be brief."}, *conversation[:1]]
    text = load_tokenizer(folder).apply_chat_template(briefly, tokenize=False)
    assert text == "Be brief. USER: Hi "
    assert load_tokenizer(words).chat_template is None
    for name, has_one in {
        "vicuna-7b": True,
        "vicuna/models/base": False,
        "vicuna/base": False,
    }.items():
        own = tmp_path_factory.mktemp("models") / name
        shutil.copytree(words, own)
        assert (load_tokenizer(own).chat_template is not None) is has_one
