"""The model's own replies: complete, resumable, and equal to what generate answers."""

import json
import subprocess
import sys
from pathlib import Path

import medusa_jax

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "train.self_distill", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_replies_are_the_models_and_a_killed_run_goes_on(chat_model, conversations, tmp_path):
    output = tmp_path / "replies.jsonl"
    arguments = [
        f"--model={chat_model}",
        f"--prompts={conversations}",
        f"--output={output}",
        "--limit=6",
        "--batch_size=3",
        "--max_new_tokens=12",
    ]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 6
    lm = medusa_jax.load(str(chat_model), "none")
    for row in rows[:2]:
        question, reply = (turn["value"] for turn in row["conversations"])
        (expected,) = medusa_jax.generate(lm, [question], max_new_tokens=12)
        assert reply == expected.text
        assert row["truncated"] == (expected.finish_reason == "length")
    text = output.read_bytes()
    lines = text.splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert run(*arguments).returncode == 0
    again = [json.loads(line) for line in output.read_text().splitlines()]
    assert {r["id"]: r["conversations"] for r in again} == {
        r["id"]: r["conversations"] for r in rows
    }


def test_missing_flags_and_files_end_in_one_line(tmp_path):
    for arguments, message in (
        ([], "--prompts"),
        ([f"--prompts={tmp_path}/x", "--output=y"], "/x"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
