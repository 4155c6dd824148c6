"""Interrupted commands: killed, and rerun to the very rows of a run without interruption."""

import functools
import json
import signal
import time

import pytest
from transformers import PreTrainedTokenizerBase

import medusa_jax
from infer import flags as shared
from infer import row_file
from tests.infer.commands import run_one

PROMPTS = ["Once upon a time", "The cat", "Lily and Tom went to the park. They saw", "One", "A"]
TIMES = ("prefill_seconds", "decode_seconds", "tokens_per_second", "compile_seconds")
# Every way to answer that can write a file.
MODES = {
    "batches": ["--batch_size=2"],
    "sampled": ["--batch_size=2", "--temperature=1"],
    "typical": ["--batch_size=2", "--temperature=1", "--acceptance=typical", "--sampled_root"],
    "streamed": ["--stream"],
    "compared": ["--compare", "--batch_size=2"],
    "compared, streamed": ["--compare", "--stream"],
}

OTHER_CALLS = {
    "--seed=1": "seed",
    "--medusa=none": "medusa",
    "--prompt=B": "prompts",
    "--batch_size=1": "batch_size",
    "--chat": "chat",
    "--compare": "compare",
    "--dtype=float32": "dtype",
    "--max_new_tokens=13": "max_new_tokens",
    "--mesh=tensor=2": "mesh",
    "--quantize=int8": "quantize",
    "--stop=x": "stop",
    "--temperature=1": "temperature",
    "--tree=chain:1": "tree",
}


@pytest.fixture(scope="module")
def loaded():
    return functools.cache(medusa_jax.load)


@pytest.fixture
def command(stories260k, heads, loaded, monkeypatch):
    """Runs a command in this process, with models that are loaded and compiled once."""
    monkeypatch.setattr(shared, "load", loaded)
    flags = [f"--model={stories260k}", f"--medusa={heads}", "--tree=mc_sim_7b_63:16"]
    flags += [
        "--max_new_tokens=12",
        "--compilation_cache=none",
        *(f"--prompt={p}" for p in PROMPTS),
    ]

    def run(*argv):
        return run_one([*flags, *map(str, argv)])

    return run


def without_times(row):
    row = {key: value for key, value in row.items() if key not in (*TIMES, "measured")}
    if "autoregressive" in row:
        row["autoregressive"] = without_times(row["autoregressive"])
    return row


def rows_of(path):
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def part_of(path):
    lines = path.with_name(f"{path.name}.part").read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    return {row.pop("index"): without_times(row) for row in rows}


def interrupt_after(monkeypatch, calls_to_keep):
    """Ctrl-C right after so many calls have kept rows."""
    add, calls = row_file.RowFile.add, []

    def interrupted(self, rows):
        add(self, rows)
        calls.append(len(rows))
        if len(calls) == calls_to_keep:
            raise KeyboardInterrupt

    monkeypatch.setattr(row_file.RowFile, "add", interrupted)
    return calls


@pytest.mark.parametrize("mode", MODES)
def test_a_rerun_gives_the_rows_of_a_run_without_interruption(command, tmp_path, mode):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    assert command(*MODES[mode], f"--output={whole}")["code"] == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 3 if mode in ("batches", "sampled", "typical") else 1)
        first = command(*MODES[mode], f"--output={path}")
    kept = part_of(path)
    assert first["code"] == 130
    assert not path.exists()
    assert 0 < len(kept) < len(PROMPTS)
    assert kept == {index: rows_of(whole)[index] for index in kept}
    with pytest.MonkeyPatch.context() as patch:
        calls = interrupt_after(patch, None)
        second = command(*MODES[mode], f"--output={path}")
    assert second["code"] == 0
    assert sum(calls) == len(PROMPTS) - len(kept)
    assert second["err"].startswith(f"resuming: {len(kept)} of 5 answers are in {path}.part\n")
    assert rows_of(path) == rows_of(whole)
    assert list(json.loads(path.read_text().splitlines()[0])) == list(
        json.loads(whole.read_text().splitlines()[0])
    )
    assert not (tmp_path / "a.jsonl.part").exists()


@pytest.mark.parametrize("mode", ["batches", "typical", "compared"])
@pytest.mark.parametrize("kept", [{1}, {0, 2, 4}])
def test_rows_are_taken_over_whatever_their_place(command, tmp_path, mode, kept):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    assert command(*MODES[mode], f"--output={whole}")["code"] == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 1)
        assert command(*MODES[mode], f"--output={path}")["code"] == 130
    rows = whole.read_text().splitlines()
    part = tmp_path / "a.jsonl.part"
    header = part.read_text().splitlines()[0]
    marked = [json.dumps(json.loads(rows[i]) | {"index": i, "text": "kept"}) for i in kept]
    part.write_text("".join(f"{line}\n" for line in [header, *marked]))
    assert command(*MODES[mode], f"--output={path}")["code"] == 0
    expected = [
        row | {"text": "kept"} if i in kept else row for i, row in enumerate(rows_of(whole))
    ]
    assert rows_of(path) == expected


@pytest.mark.parametrize("flag", ["--nostream", "--stream"])
def test_samples_are_rows_of_their_own(command, loaded, tmp_path, flag, stories260k, heads):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    argv = ["--temperature=1", "--num_samples=3", "--logprobs", flag]
    lm = loaded(str(stories260k), str(heads), dtype=None, tree="mc_sim_7b_63:16")
    expected = medusa_jax.generate(lm, PROMPTS, max_new_tokens=12, temperature=1, num_samples=3)
    assert command(*argv, f"--output={whole}")["code"] == 0
    rows = rows_of(whole)
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(3)]
    assert [row["sample"] for row in rows] == 5 * [0, 1, 2]
    assert [row["token_ids"] for row in rows] == [answer.token_ids for answer in expected]
    assert all(len(row["logprobs"]) == 12 and max(row["logprobs"]) <= 0 for row in rows)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 4)
        assert command(*argv, f"--output={path}")["code"] == 130
    assert len(part_of(path)) == 4
    second = command(*argv, f"--output={path}")
    assert second["err"].startswith("resuming: 4 of 15 answers are in ")
    assert ("--- prompt 2 of 5, sample 2 of 3" in second["err"]) == (flag == "--stream")
    assert rows_of(path) == rows


def test_only_the_same_call_resumes(command, tmp_path):
    path = tmp_path / "a.jsonl"
    argv = ["--batch_size=2", f"--output={path}"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 1)
        assert command(*argv)["code"] == 130
    before = (tmp_path / "a.jsonl.part").read_text()
    for flag, name in OTHER_CALLS.items():
        refused = command(*argv, flag)
        assert refused["code"] == 2, flag
        assert f"a.jsonl.part is of a call with other {name}: " in refused["err"]
        assert refused["err"].count("\n") == 1
    assert (tmp_path / "a.jsonl.part").read_text() == before
    anew = command(*argv, "--prompt=B", "--overwrite")
    assert anew["code"] == 0
    assert [row["prompt"] for row in rows_of(path)] == [*PROMPTS, "B"]


def test_a_finished_call_replaces_its_file(command, tmp_path):
    path = tmp_path / "a.jsonl"
    for _ in range(2):
        assert command(f"--output={path}", "--batch_size=2")["code"] == 0
        assert [row["prompt"] for row in rows_of(path)] == PROMPTS
        path.write_text(path.read_text().replace('"text": "', '"text": "old'))
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("mode", ["printed", *MODES])
def test_a_prompt_is_encoded_once(command, tmp_path, mode, monkeypatch):
    texts, call = [], PreTrainedTokenizerBase.__call__

    def counted(self, text, *args, **kwargs):
        texts.append(text)
        return call(self, text, *args, **kwargs)

    command(*MODES["compared"])  # loads
    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counted)
    monkeypatch.setattr(PreTrainedTokenizerBase, "encode", None)
    assert command(*MODES.get(mode, []))["code"] == 0
    assert texts == PROMPTS


def test_a_killed_process_is_resumed(cli, stories260k, heads, tmp_path):
    (tmp_path / "many.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Once {n} times"}) + "\n" for n in range(80))
    )
    argv = [f"--model={stories260k}", f"--medusa={heads}", "--tree=chain:2", "--batch_size=4"]
    argv += ["--max_new_tokens=60", f"--prompt_file={tmp_path}/many.jsonl"]
    path, part = tmp_path / "a.jsonl", tmp_path / "a.jsonl.part"
    process = cli.start(*argv, f"--output={path}")
    while not part.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=900)
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    with part.open("a") as file:
        file.write('{"prompt": "Once 1')  # what a kill in the middle of a write leaves
    whole, resumed = cli.many(
        [[*argv, f"--output={tmp_path}/whole.jsonl"], [*argv, f"--output={path}"]]
    )
    assert (whole.code, resumed.code) == (0, 0)
    assert resumed.err.startswith("resuming: ")
    assert rows_of(path) == rows_of(tmp_path / "whole.jsonl")
    assert len(rows_of(path)) == 80
