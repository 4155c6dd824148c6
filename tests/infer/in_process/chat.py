"""`infer.chat` as a command: messages from a pipe, answers on stdout, everything else on stderr."""

import functools
import io
import json
import signal
import sys

import pytest

import medusa_jax
from infer import chat, display
from infer import flags as shared
from tests.infer.commands import run_one

TOKENS = 24


@pytest.fixture(scope="module")
def loaded():
    return functools.cache(medusa_jax.load)


@pytest.fixture
def command(chat_model, heads, loaded, monkeypatch):
    """Runs a conversation of some lines."""
    monkeypatch.setattr(shared, "load", loaded)
    argv = [f"--model={chat_model}", f"--medusa={heads}", "--tree=mc_sim_7b_63:16"]
    argv += ["--compilation_cache=none", f"--max_new_tokens={TOKENS}"]

    def run(lines, *more):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run_one([*argv, *more], chat.run)

    return run


def answers(lm, *questions, system=None):
    """What the model says to a conversation, turn by turn."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question in questions:
        messages.append({"role": "user", "content": question})
        (result,) = medusa_jax.generate(lm, [messages], max_new_tokens=TOKENS)
        messages.append({"role": "assistant", "content": result.text})
        yield result.text


@pytest.fixture
def lm(chat_model, heads, loaded):
    return loaded(str(chat_model), str(heads), dtype=None, tree="mc_sim_7b_63:16")


def test_answers_go_to_stdout_and_the_rest_to_stderr(command, lm):
    result = command(["Once upon", "", "  ", "The cat \\", "and the dog"], "--system=Rhyme.")
    expected = answers(lm, "Once upon", "The cat \nand the dog", system="Rhyme.")
    assert (result["code"], result["out"]) == (0, "".join(f"{text}\n" for text in expected))
    model, first, second = result["err"].splitlines()
    assert model.endswith("float32 on cpu, 4 heads, tree of 16 nodes")
    for line in (first, second):
        assert line.startswith(f"{TOKENS} tokens in ")
        assert " tokens/step, " in line
        assert line.endswith(", cut off")
    new = [int(line.split("; ")[1].split()[0]) for line in (first, second)]
    assert 0 < new[1] < new[0] + TOKENS  # not the first turn again


def test_commands_are_no_messages_and_a_mistake_ends_nothing(command, lm, tmp_path):
    file = tmp_path / "saved.jsonl"
    lines = ["/stats", "Once", "/nope", f"/save {file}", "/tree nope", "\udcff", "/save \udcff"]
    result = command([*lines, "word " * 600, "/reset", "The cat", "/exit", "never said"])
    once, cat = (next(answers(lm, text)) for text in ("Once", "The cat"))
    assert (result["code"], result["out"]) == (0, f"{once}\n{cat}\n")
    said = result["err"].splitlines()[1:]
    beginnings = [
        *("no answers yet", f"{TOKENS} tokens in", "error: unknown command /nope", "wrote "),
        *("error: unknown tree 'nope'", "error: the message: character 1 is not valid Unicode"),
        *("error: the command: character 7 is not valid", "error: the prompt has "),
        *("a new conversation", f"{TOKENS} tokens in"),
    ]
    assert len(said) == len(beginnings)
    assert all(a.startswith(b) for a, b in zip(said, beginnings, strict=True)), said
    roles = [message["role"] for message in json.loads(file.read_text())["messages"]]
    assert roles == ["user", "assistant"]


@pytest.fixture
def interrupted(monkeypatch):
    """Presses Ctrl-C so many times when something of the first answer has been shown."""

    def press(times):
        add, pressed = display.StepPrinter.add, []

        def interrupting(self, piece):
            add(self, piece)
            if piece and not pressed:
                pressed.append(piece)
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(display.StepPrinter, "add", interrupting)
        return pressed

    return press


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(
    command, lm, interrupted, times, tmp_path, heeds_ctrl_c
):
    pressed = interrupted(times)
    result = command(["Once upon", f"/save {tmp_path}/a", "The cat"])
    (shown,) = pressed
    assert result["code"] == 0
    assert result["err"].splitlines()[1] == "stopped"
    messages = json.loads((tmp_path / "a").read_text())["messages"]
    assert messages[1] == {"role": "assistant", "content": shown}
    conversation = [*messages, {"role": "user", "content": "The cat"}]
    (second,) = medusa_jax.generate(lm, [conversation], max_new_tokens=TOKENS)
    assert result["out"].endswith(f"{shown}\n{second.text}\n")


def test_ctrl_c_between_answers_ends_a_piped_conversation(command, monkeypatch, heeds_ctrl_c):
    result = command([])
    assert result["code"] == 0

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "read_messages", interrupt)
    assert command([])["code"] == 130


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--system=\udcff"], "--system: character 1 is not valid Unicode"),
        (["--temperature=-1"], "temperature is -1.0: it must be 0 or more"),
        (["--tree=chain:9"], "needs 9 heads"),
        (["hello"], "unexpected argument 'hello'"),
    ],
)
def test_a_mistake_on_the_command_line_ends_it(command, flags, message):
    result = command(["Once"], *flags)
    assert (result["code"], result["out"], result["err"].count("\n")) == (2, "", 1)
    assert message in result["err"]


def test_a_model_without_template_is_refused(command, stories260k):
    result = command(["Once"], f"--model={stories260k}")
    assert (result["code"], result["out"], result["err"].count("\n")) == (2, "", 1)
    assert "the tokenizer has no chat template" in result["err"]


def test_help_teaches_and_answers_may_be_long(command):
    text = command([], "--help")["out"]
    assert text.count("python -m infer.chat") == 2
    for name in ("model", "medusa", "system", "temperature", "tree", "dtype", "seed"):
        assert f"  --{name}\n" in text
    assert "Longest answer to each prompt, in tokens. Default: 512." in text
    for name in ("prompt", "batch_size", "output"):
        assert f"  --{name}\n" not in text
