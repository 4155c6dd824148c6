"""The command that shows labels, as a person sees it, and its errors."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from tests.commands import ROOT, quick, run_many
from tests.train.data.samples import character_tokenizer, row, write_rows
from train.data.describe import describe_row

BAD = {
    '{"id": 1}\n': r"bad.jsonl:1: no",
    "": "bad.jsonl holds no conversations",
}


@pytest.fixture(scope="module")
def results(chat_model, tmp_path_factory):
    """What the command did with good data, and with each of the bad ones."""
    folder = tmp_path_factory.mktemp("show")
    good = write_rows(folder / "data.jsonl", [row("Who ran?", "Tim ran.", "Why?", "")])
    commands = [[f"--model={chat_model}", f"--data={good}", "--seq_len=128"]]
    for content in BAD:
        bad = tmp_path_factory.mktemp("bad") / "bad.jsonl"
        bad.write_text(content)
        commands.append([f"--model={chat_model}", f"--data={bad}"])
    cache = {"MEDUSA_JAX_CACHE": str(folder / "cache")}
    return run_many("train.data.show", commands, quick() | cache)


def test_labels_stand_in_brackets_without_colours(results):
    done = results[0]
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert re.fullmatch(
        r"--- row 0: \d+ documents, \d+ labels in \d+ tokens, \d+ padding ---", lines[0]
    )
    assert lines[1] == "--- document 1 ---"
    text = done.out.split("--- document 1 ---\n")[1].split("\n---")[0]
    # Replies and end marks are labels, headers and line ends are not. The space of the header and
    # the first word are one token here: it begins in the header.
    assert text.replace(" ", "").startswith(
        "user:Whoran?</s>\nassistant:Tim[[ran.</s>]]\nuser:Why?</s>\n"
    )
    assert text.replace(" ", "").rstrip().endswith("assistant:[[</s>]]")
    assert "documents (0 held out)" in done.err


def test_colours_grey_out_what_is_no_label():
    tokenizer = character_tokenizer()
    ids = tokenizer("<|user|>a<end>\n<|assistant|>bc<end>\n")["input_ids"]
    labels = [False] * 5 + [True] * 3 + [False]
    packed = {
        "token": np.array([*ids, 0, 0], np.int32),
        "is_label": np.array([*labels, False, False]),
        "segment": np.array([1] * len(ids) + [0, 0], np.int32),
        "position": np.array([*range(len(ids)), 0, 0], np.int32),
    }
    head, document, text = describe_row(tokenizer, packed, 3, plain=False)
    assert "row 3: 1 documents, 3 labels in 9 tokens, 2 padding" in head.plain
    assert document.plain == "--- document 1 ---"
    greyed = [text.plain[s.start : s.end] for s in text.spans if s.style == "bright_black"]
    learned = [text.plain[s.start : s.end] for s in text.spans if s.style != "bright_black"]
    assert "".join(greyed).replace(" ", "") == "<|user|>a<end>\n<|assistant|>\n"
    assert "".join(learned).replace(" ", "") in ("", "bc<end>")
    console = Console(force_terminal=True, color_system="standard", width=200)
    with console.capture() as capture:
        console.print(text)
    assert "\x1b[90m" in capture.get()


def test_bad_data_ends_in_one_line(results):
    for message, done in zip(BAD.values(), results[1:], strict=True):
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert message in done.err


def test_a_closed_pipe_ends_without_traceback(chat_model, tmp_path):
    good = write_rows(tmp_path / "data.jsonl", [row("Who ran?", "Tim ran.")])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "train.data.show", f"--model={chat_model}", f"--data={good}"],
        env=quick() | {"MEDUSA_JAX_CACHE": str(tmp_path / "cache")},
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr


def test_nothing_imports_tensorflow_and_the_library_imports_no_training():
    code = (
        "import sys, medusa_jax; names = {'grain', 'tensorflow_datasets', 'tensorboardX', 'train'};"
        "assert not names & set(sys.modules);"
        "import train.data.pipeline; assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
