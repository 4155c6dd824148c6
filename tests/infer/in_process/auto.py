"""`--tree auto`, the default: the text of plain decoding, whatever was measured here."""

import functools
import io
import json
import sys

import jax
import pytest

import medusa_jax
from infer import chat
from medusa_jax.io.measurements import acceptance_file, times_file, write_content
from medusa_jax.tuning.measured import Acceptance, assumed_acceptance
from tests.infer.commands import run_one

TOKENS = 12
QUESTIONS = ["Once upon a time", "And the cat?"]
EIGHT = "tree auto: 8 nodes, 2.1 tokens per step expected, 2.1x plain decoding (measured)"
PLAIN = "tree auto: plain decoding, no tree is faster here (measured)"
UNEXPECTED = "No tree was expected to be faster than plain decoding here."


@pytest.fixture
def tuned(chat_model, heads, monkeypatch, tmp_path):
    """Writes what `infer.tune` would: steps are as fast as plain ones up to some nodes."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))
    acceptance = Acceptance({0.0: assumed_acceptance(4)}).to_json()
    write_content(acceptance_file(chat_model, heads), {"acceptance": acceptance})

    def measured(fast):
        points = [[1, nodes, 256, 0.01] for nodes in {1, fast}] + [[1, 2 * fast, 256, 0.1]]
        file = times_file(chat_model, heads, jax.devices()[0])
        write_content(file, {"times": {"float32": points}})

    return measured


@pytest.fixture
def command(chat_model, heads, monkeypatch):
    """Runs generate with the first question, or a chat with both."""
    argv = [f"--model={chat_model}", f"--medusa={heads}", f"--max_new_tokens={TOKENS}"]
    argv += ["--compilation_cache=none"]

    def run(*more, chatting=False):
        if chatting:
            monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{q}\n" for q in QUESTIONS)))
            return run_one([*argv, *more], chat.run)
        return run_one([*argv, f"--prompt={QUESTIONS[0]}", *more])

    return run


@pytest.fixture(scope="module")
def answers(chat_model, heads):
    """The answers to both questions with a tree, one turn after the other."""
    lm = medusa_jax.load(str(chat_model), str(heads), dtype="float32", tree="chain:0")

    @functools.cache
    def given(tree):
        messages, results = [], []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            results += medusa_jax.generate(lm, [messages], tree=tree, max_new_tokens=TOKENS)
            messages.append({"role": "assistant", "content": results[-1].text})
        return results

    return given


@pytest.mark.parametrize(("fast", "said"), [(8, EIGHT), (1, PLAIN)], ids=["tree", "plain"])
def test_answers_are_those_of_plain_decoding(tuned, command, answers, fast, said):
    tuned(fast)
    texts = [f"{answer.text}\n" for answer in answers("chain:0")]
    for chatting, expected in (False, texts[0]), (True, "".join(texts)):
        result = command(chatting=chatting)
        assert (result["code"], result["out"]) == (0, expected)
        model, choice = result["err"].splitlines()[:2]
        assert model.endswith("float32 on cpu, 4 heads")
        assert choice == said


def test_a_small_tree_is_compared_where_auto_begins_with_none(tuned, command, answers, tmp_path):
    tuned(1)
    result = command("--compare", f"--output={tmp_path / 'a.jsonl'}")
    assert result["code"] == 0, result["err"]
    assert "4 heads, tree of 4 nodes\n" in result["err"]
    assert "tree auto" not in result["err"]
    assert UNEXPECTED not in result["out"]
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    small = answers("mc_sim_7b_63:4")[0]
    assert (row["token_ids"], row["num_steps"]) == (small.token_ids, small.num_steps)
    assert row["num_steps"] < TOKENS == row["autoregressive"]["num_steps"]
    assert row["autoregressive"]["token_ids"] == answers("chain:0")[0].token_ids


def test_auto_that_was_asked_for_is_compared_as_it_is(tuned, command, answers):
    tuned(1)
    result = command("--compare", "--tree=auto")
    assert result["code"] == 0, result["err"]
    assert PLAIN in result["err"]
    assert result["out"].startswith(f"{answers('chain:0')[0].text}\n")
    assert UNEXPECTED in result["out"]
    assert f"In steps: {TOKENS} passes through the model instead of {TOKENS}" in result["out"]
