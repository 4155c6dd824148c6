"""`--mesh` and `--quantize` of generate and chat, on the fake devices of the tests."""

import io
import json
import sys

import pytest

import medusa_jax
from infer import chat
from tests.infer.commands import run_one

TOKENS = 12
TREE = "mc_sim_7b_63:8"
PROMPTS = ["Once upon a time", "The cat"]


@pytest.fixture
def argv(chat_model, heads):
    flags = [f"--model={chat_model}", f"--medusa={heads}", f"--tree={TREE}", "--dtype=float32"]
    return [*flags, "--compilation_cache=none", f"--max_new_tokens={TOKENS}"]


@pytest.fixture
def expected(chat_model, heads):
    """What a model that is loaded in another way answers, by the library."""

    def answers(prompts, **how):
        lm = medusa_jax.load(str(chat_model), str(heads), dtype="float32", tree=TREE, **how)
        return [r.text for r in medusa_jax.generate(lm, prompts, max_new_tokens=TOKENS)]

    return answers


def test_generate_on_two_devices_says_the_same(argv, expected, tmp_path):
    file = tmp_path / "rows.jsonl"
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    result = run_one([*argv, *prompts, "--mesh=tensor=2", f"--output={file}"])
    assert result["code"] == 0, result["err"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["text"] for row in rows] == expected(PROMPTS)


def test_generate_in_8_bits_says_what_a_model_in_8_bits_says(argv, expected):
    result = run_one([*argv, f"--prompt={PROMPTS[0]}", "--quantize=int8"])
    assert result["code"] == 0, result["err"]
    (text,) = expected(PROMPTS[:1], quantize="int8")
    assert text in result["out"]


def test_chat_on_two_devices_in_8_bits(argv, expected, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPTS[1]}\n"))
    result = run_one([*argv, "--mesh=tensor=2", "--quantize=int8"], chat.run)
    messages = [{"role": "user", "content": PROMPTS[1]}]
    (text,) = expected([messages], quantize="int8")
    assert (result["code"], result["out"]) == (0, f"{text}\n")


def test_a_mesh_that_needs_more_devices(argv):
    result = run_one([*argv, f"--prompt={PROMPTS[0]}", "--mesh=tensor=16"])
    assert (result["code"], result["out"]) == (2, "")
    assert result["err"].startswith("error: the mesh tensor=16 needs 16 devices")
    assert result["err"].count("\n") == 1
