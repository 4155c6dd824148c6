"""The comparison of runs: a changed model and heads on a fixed one, each against other code."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.nn.llama import Llama, causal_mask
from tests.train.small_runs import (
    CACHED,
    LORA,
    make,
    quick_compilation,
    run,
    write_data,
    write_model,
)
from train.run import train

ROOT = Path(__file__).parents[2]
QUESTIONS = ["Who is Tim, 1?", "Who is Lily, 7?", "Where is Ben?"]
FLAGS = ["--max_new_tokens=24", "--count=3", "--compilation_cache=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, two runs that started from it, and the questions and problems to ask."""
    folder = tmp_path_factory.mktemp("report")
    model, data = write_model(folder / "model"), write_data(folder / "data.jsonl")
    common = {"steps": 40, "learning_rate": 1e-2, "export_dtype": "float32"}
    with quick_compilation(folder / "compiled"):
        run(make(model, data, export_format="A", **CACHED | common), folder / "heads_only")
        run(make(model, data, export_format="A", **LORA | common), folder / "joint")
    write_rows(folder / "questions.jsonl", [{"turns": [q, "Why?"]} for q in QUESTIONS])
    write_rows(folder / "problems.jsonl", [{"question": "1 + 1?", "answer": "2"}] * 4)
    return folder


def write_rows(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def report(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "train.report", f"--data={folder / 'data.jsonl'}"]
    command += [f"--questions={folder / 'questions.jsonl'}", f"--output={folder / 'out.json'}"]
    command += [*FLAGS, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def test_rows_are_what_decoding_and_evaluation_say(folder):
    runs = f"--runs={folder / 'heads_only'},{folder / 'joint'}"
    done = report(folder, runs, f"--problems={folder / 'problems.jsonl'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "out.json").read_text())
    assert found["command"].startswith("python -m train.report")
    base, heads_only, joint = found["rows"]
    assert [row["run"] for row in found["rows"]] == ["base", "heads_only", "joint"]
    for name in ("lm_loss", "perplexity", "reply_tokens"):
        assert heads_only[name] == base[name]
    assert joint["lm_loss"] < base["lm_loss"] - 0.5
    assert base["tokens_per_step"] == 1.0
    models = {"heads_only": (folder / "model", folder / "heads_only" / "export")}
    models["joint"] = (folder / "joint" / "export",)
    for row in (heads_only, joint):
        lm = medusa_jax.load(*map(str, models[row["run"]]), dtype="float32", tree="mc_sim_7b_63")
        answers = medusa_jax.generate(lm, QUESTIONS, batch_size=3, max_new_tokens=24)
        tokens = sum(answer.num_new_tokens for answer in answers)
        steps = sum(answer.num_steps for answer in answers)
        assert row["tokens_per_step"] == pytest.approx(tokens / steps, rel=1e-12)
        assert row["reply_tokens"] == tokens / 3
        assert row["run"] in done.stdout


def test_perplexity_is_that_of_the_answers(folder):
    """By hand: the model's own log-probabilities of "2" and of the end of turn."""
    done = report(folder, f"--runs={folder / 'joint'}", f"--problems={folder / 'problems.jsonl'}")
    assert done.returncode == 0, done.stderr
    (base, _) = json.loads((folder / "out.json").read_text())["rows"]
    lm = medusa_jax.load(str(folder / "model"), "none", dtype="float32")
    prompt = list(encode_prompt(lm, "1 + 1?").ids)
    answer = [lm.tokenizer.convert_tokens_to_ids(token) for token in ("2", "<|im_end|>")]
    token_BT = np.array([prompt + answer], np.int32)
    logits = forward(lm, token_BT)[0, len(prompt) - 1 : -1]
    loss = -np.mean([jax.nn.log_softmax(x)[t] for x, t in zip(logits, answer, strict=True)])
    assert base["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def forward(lm, token_BT):
    llama = Llama(lm.config)
    position_BT = np.arange(token_BT.shape[1], dtype=np.int32)[None]
    hidden, _ = llama.apply(
        {"params": lm.params}, token_BT, position_BT, causal_mask(token_BT.shape[1])
    )
    return np.asarray(llama.apply({"params": lm.params}, hidden, method="logits"))


def test_a_whole_model_is_found(folder):
    with quick_compilation(folder / "compiled"), jax.numpy_dtype_promotion("standard"):
        settings = make(str(folder / "model"), str(folder / "data.jsonl"), **LORA, steps=1)
        train(settings, folder / "whole")
    done = report(folder, f"--runs={folder / 'whole'}")
    assert done.returncode == 0, done.stderr
    base, whole = json.loads((folder / "out.json").read_text())["rows"]
    assert "perplexity" not in base
    assert len(whole["head_top1"]) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runs="], "--runs, --questions and --output are all needed: see --help"),
        (["--runs={0}/joint,{0}/joint"], "--runs: their folders need different names"),
        (["--tree=nope"], "unknown tree 'nope'"),
        (["--tree=chain:9"], "tree chain:9 needs 9 heads, the model has 4"),
        (["--runs=gs://bucket/run"], "--runs: gs://bucket/run is in a bucket: download it"),
        (["--runs=nowhere"], "nowhere holds no run (settings.json is missing): name its --workdir"),
        (["--problems={}/questions.jsonl"], "questions.jsonl:1: expected an object with question"),
        (["--questions={}/problems.jsonl"], "problems.jsonl:1: expected an object with turns"),
    ],
)
def test_errors_are_one_line(folder, flags, message):
    flags = [flag.format(folder) for flag in flags]
    (folder / "out.json").unlink(missing_ok=True)
    done = report(folder, f"--runs={folder / 'heads_only'}", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out.json").exists()
