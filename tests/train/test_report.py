"""The comparison of runs: a changed model and heads on a fixed one, each against other code."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import medusa_jax
from medusa_jax.chat import Example
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.tree.presets import load_tree
from tests.commands import ROOT, Result, quick, run_many
from tests.train.small_runs import CACHED, LORA, make, run
from train.evaluation.scores import score

QUESTIONS = ["Who is Tim, 1?", "Who is Lily, 7?", "Where is Ben?"]
# What follows a command that works, in which {} is its folder, and what the line must say.
MISTAKES = [
    (["--runs="], "--runs, --questions and --output are all needed: see --help"),
    (["--runs={0}/joint,{0}/joint"], "--runs: they need different names, none of them base"),
    (["--runs=base={0}/joint"], "--runs: they need different names, none of them base"),
    (["--runs={0}/joint+{0}/joint_again"], "joint_again needs a name: NAME="),
    (["--runs=x={0}/joint+{0}/joint"], "has the same run twice: give it another config.seed"),
    (["--runs=x={0}/joint+{0}/heads_only"], "differ in config."),
    (["--reference=nobody"], "--reference: nobody is none of base, heads_only"),
    (["--tree=nope"], "unknown tree 'nope'"),
    (["--tree=chain:9"], "tree chain:9 needs 9 heads, the model has 4"),
    (["--runs=gs://bucket/run"], "--runs: gs://bucket/run is in a bucket: download it"),
    (["--runs=nowhere"], "nowhere holds no run (settings.json is missing): name its --workdir"),
    (["--problems={}/questions.jsonl"], "questions.jsonl:1: expected an object with question"),
    (
        ["--questions={}/one_question.jsonl"],
        "an interval needs 2 questions or more, there is 1",
    ),
    (["--questions={}/surrogate.jsonl"], "surrogate.jsonl:2: a character is not valid Unicode"),
    (["--questions={}/problems.jsonl"], "problems.jsonl:1: expected an object with turns"),
]
FLAGS = ["--max_new_tokens=24", "--count=3", "--compilation_cache=none", "--allow_dirty"]


@pytest.fixture(scope="module")
def folder(small, model, data):
    """A model, three runs that started from it, and the questions and problems to ask."""
    common = {"steps": 40, "learning_rate": 1e-2, "export_dtype": "float32"}
    run(make(model, data, export_format="A", **CACHED | common), small / "heads_only")
    for seed, name in enumerate(("joint", "joint_again")):
        joint = make(model, data, export_format="A", seed=seed, **LORA | common)
        run(joint, small / name)
    write_rows(small / "questions.jsonl", [{"turns": [q, "Why?"]} for q in QUESTIONS])
    write_rows(small / "one_question.jsonl", [{"turns": QUESTIONS[:1]}])
    write_rows(small / "surrogate.jsonl", [{"turns": ["Why?"]}, {"turns": ["What \ud800"]}])
    write_rows(small / "problems.jsonl", [{"question": "1 + 1?", "answer": "2"}] * 4)
    return small


def write_rows(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(folder: Path, output: str, *flags: str) -> list[str]:
    files = [f"--data={folder / 'data.jsonl'}", f"--questions={folder / 'questions.jsonl'}"]
    return [*files, f"--output={folder / output}", *FLAGS, *flags]


def report(folder: Path, *flags: str) -> Result:
    (result,) = run_many("train.report", [arguments(folder, "out.json", *flags)], quick())
    return result


@pytest.fixture(scope="module")
def reported(folder):
    """What the report of two runs says, and prints."""
    runs = f"--runs={folder / 'heads_only'},{folder / 'joint'}"
    done = report(folder, runs, f"--problems={folder / 'problems.jsonl'}")
    assert done.code == 0, done.err
    return json.loads((folder / "out.json").read_text()), done.out


def test_rows_are_what_decoding_and_evaluation_say(folder, reported):
    found, printed = reported
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
        assert row["reply_tokens"] == pytest.approx(tokens / 3)
        examples = [answered(lm, *pair) for pair in zip(QUESTIONS, answers, strict=True)]
        scores = score(lm, load_tree("mc_sim_7b_63"), examples, lambda count: None)
        assert row["head_top1"] == pytest.approx(scores.metrics()["head_top1"])
        assert row["run"] in printed


def answered(lm, question, answer) -> Example:
    prompt = encode_prompt(lm, question).ids
    token_T = np.array([*prompt, *answer.token_ids], np.int32)
    return Example(token_T, np.arange(len(token_T)) >= len(prompt))


@pytest.mark.usefixtures("heeds_ctrl_c")  # and so do its children
def test_an_interrupted_report_goes_on(folder, reported):
    """Stopped when the first model has been measured, it measures the others, and says the same."""
    runs = f"--runs={folder / 'heads_only'},{folder / 'joint'}"
    flags = arguments(folder, "late.json", runs, f"--problems={folder / 'problems.jsonl'}")
    part = folder / "late.json.part"
    command = [sys.executable, "-m", "train.report", *flags]
    with subprocess.Popen(command, cwd=ROOT, env=quick(), stderr=subprocess.PIPE, text=True) as run:
        while not part.exists() and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=300)[1]
    assert "what has been measured is in" in said
    assert not (folder / "late.json").exists()
    header, *kept = map(json.loads, part.read_text().splitlines())
    assert kept[0]["files"] == "base"
    kept[0]["prompts"]["conversations"][0]["loss"] += 1  # shows whether it is measured again
    write_rows(part, [header, *kept])
    (done,) = run_many("train.report", [flags], quick())
    assert done.code == 0, done.err
    assert "resuming" in done.err
    assert not part.exists()
    base, *rows = json.loads((folder / "late.json").read_text())["rows"]
    assert base["lm_loss"] > reported[0]["rows"][0]["lm_loss"]
    assert [row["prompts"] for row in rows] == [r["prompts"] for r in reported[0]["rows"][1:]]


def test_questions_are_what_the_models_say(folder, reported):
    """Agreement, repetition and divergence of every answer, from the models' own answers."""
    found, _ = reported
    original, joint = (
        medusa_jax.load(str(path), "none", dtype="float32")
        for path in (folder / "model", folder / "joint" / "export" / "backbone")
    )
    prompts = [list(encode_prompt(original, question).ids) for question in QUESTIONS]
    answers, others = (
        [x.token_ids for x in medusa_jax.generate(lm, QUESTIONS, max_new_tokens=24)]
        for lm in (joint, original)
    )
    base_row, heads_only_row, joint_row = found["rows"]
    (of_joint,) = joint_row["prompts"]
    for row, answer, other in zip(of_joint["questions"], answers, others, strict=True):
        assert row["tokens"] == len(answer)
        assert row["is_identical"] == (answer == other)
        same = [a == b for a, b in zip(answer, other, strict=False)]
        assert row["agreed"] == (same.index(False) if False in same else len(same))
        windows = [tuple(answer[t : t + 4]) for t in range(len(answer) - 3)]
        assert row["repeated"] == sum(w in windows[:t] for t, w in enumerate(windows))
    for row, prompt, other in zip(of_joint["questions"], prompts, others, strict=True):
        logs = [np.asarray(log_probs(lm, prompt + other)) for lm in (original, joint)]
        log_p, log_q = (x[len(prompt) - 1 : -1] for x in logs)
        wanted = (np.exp(log_p) * (log_p - log_q)).sum()
        assert row["kl"] == pytest.approx(wanted, rel=1e-3)
    total = sum(map(len, others))
    wanted = sum(row["kl"] for row in of_joint["questions"]) / total
    assert joint_row["kl_divergence"] == pytest.approx(wanted)
    assert joint_row["agreement"] < 1
    for row in (base_row, heads_only_row):
        assert (row["agreement"], row["identical"], row["kl_divergence"]) == (1.0, 1.0, 0.0)
    assert heads_only_row["versus"]["base"]["lm_loss"]["verdict"] is None
    assert joint_row["versus"]["base"]["lm_loss"]["verdict"] == "better"
    assert joint_row["settings"]["lora_rank"] == 4


def log_probs(lm, tokens):
    return jax.nn.log_softmax(forward(lm, np.array([tokens], np.int32))[0])


def test_seeds_of_one_run_are_averaged(folder):
    joint, again = folder / "joint", folder / "joint_again"
    done = report(
        folder, f"--runs=both={joint}+{again},one={joint},two={again}", "--reference=base,one"
    )
    assert done.code == 0, done.err
    _, both, one, two = json.loads((folder / "out.json").read_text())["rows"]
    assert [member["seed"] for member in both["members"]] == [0, 1]
    assert both["prompts"] == one["prompts"] + two["prompts"]
    assert both["lm_loss"] == pytest.approx(math.sqrt(one["lm_loss"] * two["lm_loss"]))
    assert both["agreement"] == pytest.approx((one["agreement"] + two["agreement"]) / 2)
    ratio = two["versus"]["one"]["tokens_per_step"]["ratio"]
    assert ratio == pytest.approx(two["tokens_per_step"] / one["tokens_per_step"])
    low, high = both["intervals"]["lm_loss"]
    assert low < min(one["lm_loss"], two["lm_loss"]) < max(one["lm_loss"], two["lm_loss"]) < high


def test_numbers_of_no_commit_are_not_written(folder, tmp_path):
    """A copy of the code outside any repository, then in one with a change."""
    for package in ("medusa_jax", "train"):
        shutil.copytree(ROOT / package, tmp_path / package)
    assert "no commit is known of this code" in refusal(folder, tmp_path)
    git = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com")
    for words in (["init"], ["add", "."], ["commit", "--message=all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    # A clean tree is not refused: the next mistake is.
    assert refusal(folder, tmp_path, "--runs=nowhere").startswith("error: nowhere holds no run")
    with (tmp_path / "train" / "report.py").open("a") as file:
        file.write("# changed\n")
    assert "files differ from those of commit" in refusal(folder, tmp_path)


def refusal(folder: Path, code: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "train.report", f"--runs={folder / 'joint'}"]
    command += [f"--questions={folder / 'questions.jsonl'}", f"--output={folder / 'new.json'}"]
    done = subprocess.run([*command, *flags], cwd=code, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "new.json").exists()
    return done.stderr


def test_perplexity_is_that_of_the_answers(folder, reported):
    """By hand: the model's own log-probabilities of "2" and of the end of turn."""
    base = reported[0]["rows"][0]
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
    run(make(str(folder / "model"), str(folder / "data.jsonl"), **LORA, steps=1), folder / "whole")
    done = report(folder, f"--runs={folder / 'whole'}")
    assert done.code == 0, done.err
    base, whole = json.loads((folder / "out.json").read_text())["rows"]
    assert "perplexity" not in base
    assert len(whole["head_top1"]) == 4


def test_errors_are_one_line(folder):
    commands = [
        arguments(folder, "bad.json", f"--runs={folder / 'heads_only'}", *flags)
        for flags, _ in MISTAKES
    ]
    commands = [[argument.format(folder) for argument in command] for command in commands]
    results = run_many("train.report", commands, quick())
    for (flags, message), done in zip(MISTAKES, results, strict=True):
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), flags
        assert done.err.startswith("error: ")
        assert message in done.err
    assert not (folder / "bad.json").exists()
