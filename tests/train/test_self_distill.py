"""The command: complete, resumable, sharded, and one line about what is wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import medusa_jax
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import init_heads
from tests.commands import ROOT, quick
from tests.train.processes import free_port
from train import self_distill

FLAGS = {
    "max_new_tokens": 16,
    "max_prompt_tokens": 300,
    "batch_size": 4,
    "temperature": 0.8,
    "compilation_cache": "none",
}


@pytest.fixture(scope="module")
def settings(brief_chat_model, long_conversations):
    return FLAGS | {"model": str(brief_chat_model), "prompts": str(long_conversations)}


def run(settings, **more):
    """The command within this process; its summary is on stdout."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    with flagsaver.flagsaver(**(settings | more)):
        self_distill.main([])


def start(settings, environment=(), **more):
    """The command in a process of its own."""
    arguments = [f"--{key}={value}" for key, value in (settings | more).items()]
    environment = quick() | dict(environment)
    return subprocess.Popen(
        [sys.executable, "-m", "train.self_distill", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(*paths):
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """Replies to everything, in one go."""
    output = tmp_path_factory.mktemp("whole") / "replies.jsonl"
    run(settings, output=str(output))
    return output


def test_every_conversation_is_replayed(whole, long_conversations):
    found = rows(whole)
    asked = [json.loads(line) for line in long_conversations.read_text().splitlines()]
    assert found.keys() == {row["id"] for row in asked}
    for row in asked:
        turns = found[row["id"]]["conversations"]
        assert [t["from"] for t in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[::2] == row["conversations"][: len(turns) : 2]
        assert found[row["id"]]["truncated"] or len(turns) == len(row["conversations"])


def test_heads_do_not_change_sampled_replies(settings, whole, tmp_path):
    base = medusa_jax.load(settings["model"], "none")
    V, D = base.config.vocab_size, base.config.hidden_size
    config = MedusaConfig(num_heads=2, hidden_size=D, vocab_size=V)
    params = init_heads(config, base.params["embed"]["weight"], np.float32)
    heads = tmp_path / "heads"
    save_heads(heads, config, params, format="C", base_model=settings["model"], vocab_size=V)
    output = tmp_path / "r.jsonl"
    run(settings, output=str(output), medusa=str(heads), limit=6)
    assert rows(output).items() <= rows(whole).items()


def test_a_run_killed_at_any_time_resumes(settings, whole, tmp_path):
    output = tmp_path / "replies.jsonl"
    part = tmp_path / "replies.jsonl.part-00000-of-00001"
    enough = random.randrange(1, 20)
    process = start(settings, output=output)
    while process.poll() is None and (not part.exists() or part.read_text().count("\n") < enough):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = part.read_bytes()
    assert not output.exists()
    part.write_bytes(before + b'{"id": "long')  # what a kill within a write leaves
    run(settings, output=str(output))
    assert output.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_finished_file_stays_and_a_higher_limit_adds_to_it(settings, whole, tmp_path, capsys):
    output = tmp_path / "replies.jsonl"
    run(settings, output=str(output), limit=5)
    first = output.read_bytes()
    assert len(rows(output)) == 5
    run(settings, output=str(output), limit=5)
    assert "5 conversations, of which 0 new" in capsys.readouterr().out
    assert output.read_bytes() == first
    run(settings, output=str(output), limit=8)
    assert output.read_bytes().startswith(first)
    assert len(rows(output)) == 8
    assert rows(output).items() <= rows(whole).items()


def test_shards_divide_the_conversations(settings, whole, tmp_path):
    output = tmp_path / "r.jsonl"
    for index in range(2):
        run(settings, output=str(output), shard_index=index, shard_count=3)
        assert len(rows(tmp_path / f"r.jsonl.part-{index:05d}-of-00003")) == 8
    assert not output.exists()
    run(settings, output=str(output))  # somebody else takes what is left
    assert output.read_bytes() == whole.read_bytes()


def test_processes_of_a_cluster_take_a_share_each_on_meshes_of_their_own(settings, whole, tmp_path):
    cluster = {"coordinator_address": f"localhost:{free_port()}", "num_processes": 2}
    output = tmp_path / "r.jsonl"
    devices = {"environment": {"JAX_NUM_CPU_DEVICES": "3"}, "mesh": "tensor=2", "limit": 6}
    processes = [
        start(settings, output=output, **cluster, **devices, process_id=i) for i in range(2)
    ]
    printed = []
    for process in processes:
        out, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
        printed.append(out)
    assert all("3 conversations, of which 3 new" in out for out in printed)
    assert output.read_bytes().splitlines() == whole.read_bytes().splitlines()[:6]
    assert sorted(os.listdir(tmp_path)) == ["r.jsonl", "r.jsonl.meta.json"]


def test_a_file_made_by_another_model_of_that_name_is_refused(
    settings, whole, brief_chat_model, tmp_path
):
    output = Path(shutil.copy(whole, tmp_path / "r.jsonl"))
    beside = shutil.copy(f"{whole}.meta.json", f"{output}.meta.json")
    made = json.loads(Path(beside).read_text())
    for key in ("weights", "chat_template"):
        Path(beside).write_text(json.dumps(made | {key: "0"}))
        with pytest.raises(UserError, match=f"was made with {key}"):
            run(settings, output=str(output))
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"temperature": 0.0},
        {"max_new_tokens": 17},
        {"max_turns": 1},
        {"seed": 1},
        {"model": "x"},
        {"dtype": "bfloat16"},
    ],
)
def test_a_file_made_with_other_settings_is_refused(settings, whole, changed):
    before = whole.read_bytes()
    with pytest.raises(UserError, match=f"was made with {next(iter(changed))}"):
        run(settings, output=str(whole), **changed)
    assert whole.read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": None}, "--prompts and --output"),
        ({"prompts": "nowhere.jsonl"}, "cannot read nowhere.jsonl"),
        ({"prompts": "empty.jsonl"}, "empty.jsonl"),
        ({"output": "missing/folder/r.jsonl"}, "cannot write missing/folder"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"shard_index": 1}, "both --shard_index"),
        ({"shard_index": 2, "shard_count": 2}, "count from 0 to 1"),
        ({"max_new_tokens": 512}, "lower --max_new_tokens"),
        ({"max_prompt_tokens": 3}, "no conversation can be asked"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    settings, tmp_path, monkeypatch, changed, message
):
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    with pytest.raises(UserError, match=message) as raised:
        run(settings, **({"output": "r.jsonl"} | changed))
    assert "\n" not in str(raised.value)
    assert os.listdir() == ["empty.jsonl"]


def test_a_temperature_below_zero_ends_in_exit_code_2(settings, tmp_path):
    process = start(settings, output=tmp_path / "r.jsonl", temperature=-1)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "temperature" in errors
