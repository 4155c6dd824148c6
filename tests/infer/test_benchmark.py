"""The benchmark's command line. Nothing here depends on how fast anything is."""

import json
import subprocess
import sys

import pytest

from tests.commands import ROOT, quick, run_many

PROMPTS = ["Once upon a time", "Lily and Tom went to the park. They saw a"]
TREES = ["mc_sim_7b_63:4", "mc_sim_7b_63:16"]
SHARED_KEYS = {"mode", "date", "command", "commit", "device", "cpu", "cores", "load_average"}
SHARED_KEYS |= {"versions", "settings", "rows"}
# What follows the command, in which {} is a folder, and what the line must say.
MISTAKES = {
    "--shape=llama-9b": "tiny|llama-1b|llama-3b|llama-7b|llama-8b",
    "--trees=mc_sim_7b_63:4,chian:2": "unknown tree 'chian:2', did you mean chain?",
    "--output={}/no/out.json": "No such file or directory",
    "--output={}": "not a regular file",
    "--dtypes=float8": "'float8': choose from float32, bfloat16, float16",
    "--mesh=tensor=64": "the mesh tensor=64 needs 64 devices",
    "--shape=tiny --mesh=tensor=64": "the mesh tensor=64 needs 64 devices",
    "--batch_sizes=2": "--batch_sizes only works with --shape",
    "--shape=tiny --contexts=512,none": "--contexts is 512,none: give numbers from 1",
    "--shape=tiny --batch_sizes=": "--batch_sizes is : give numbers from 1",
    "--heads=own": "--heads only works with --shape",
    "--batches=2 --max_new_tokens=4": "--max_new_tokens only works without --batches",
    "--batches=2 --shape=tiny": "--shape and --batches measure different things: give one",
    "--sampling=1 --rounds=2": "--rounds only works without --sampling",
    "--sampling=1 --trees=chain:1,chain:2": "measures one tree: give --trees only one",
    "--batches=2 --dtypes=float32,bfloat16": "give --dtypes only one",
    "--shape=tiny --medusa=none": "--medusa only works without --shape",
    "--shape=tiny --trees=chain:6": "chain:6 needs 6 heads, the model has 5",
    "--prompt_file={}/no.jsonl": "cannot read the prompt file",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Two devices, and one compilation cache for all commands."""
    cache = str(tmp_path_factory.mktemp("cache"))
    devices = {"JAX_NUM_CPU_DEVICES": "2"}
    return quick(without=("JAX_", "XLA_", "COLUMNS")) | {"MEDUSA_JAX_CACHE": cache} | devices


@pytest.fixture(scope="module")
def checkpoint(environment, stories260k, heads, tmp_path_factory):
    """(report, stdout) of a real model with untrained heads."""
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "mt.jsonl").write_text(
        "".join(json.dumps({"turns": [text, "Go on."]}) + "\n" for text in PROMPTS)
    )
    argv = [f"--model={stories260k}", f"--medusa={heads}", "--trees=mc_sim_7b_63:4,:16"]
    argv += ["--dtypes=float32", "--rounds=2", "--max_new_tokens=24"]
    argv += [f"--prompt_file={folder / 'mt.jsonl'}", f"--output={folder / 'out.json'}"]
    done = subprocess.run(
        [sys.executable, "-m", "infer.benchmark", *argv],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def results(environment, folder):
    """Every command that can share a process, by name: those that need no model, and mistakes."""
    shape = ["--shape=tiny", "--dtypes=float32", "--rounds=1", "--heads=own"]
    shape += ["--trees=mc_sim_7b_63:8"]
    two = ["--contexts=32", "--mesh=tensor=2", "--quantize=int8"]
    commands = {
        "shape": [*shape, "--batch_sizes=1,2", "--contexts=512,32", f"--output={folder}/shape"],
        "two": [*shape, *two, f"--output={folder}/two"],
        "brief": [*shape, "--contexts=32,64", "--minutes=0", f"--output={folder}/brief"],
        "help": ["--help"],
    }
    (folder / "empty").mkdir()
    commands |= {case: case.format(folder / "empty").split() for case in MISTAKES}
    done = run_many("infer.benchmark", list(commands.values()), environment)
    return dict(zip(commands, done, strict=True))


@pytest.fixture(scope="module")
def shape(results, folder):
    """(report, stdout) of random weights."""
    assert results["shape"].code == 0, results["shape"].err
    return json.loads((folder / "shape").read_text()), results["shape"].out


def test_checkpoint_report_says_where_it_was_made(checkpoint):
    report, _ = checkpoint
    assert set(report) == SHARED_KEYS | {"identical_float32", "notes"}
    assert report["mode"] == "checkpoint"
    assert report["device"]["platform"] == "cpu"
    assert report["command"].startswith("python -m infer.benchmark --model=")
    assert set(report["versions"]) == {"python", "jax", "jaxlib", "flax", "torch", "transformers"}
    assert report["settings"]["prompts"] == 2


def test_checkpoint_rows_compare_all_trees(checkpoint):
    rows = [row for row in checkpoint[0]["rows"] if row["decoder"] != "transformers"]
    assert [row["tree"] for row in rows] == [None, *TREES]
    assert [row["nodes"] for row in rows] == [1, 4, 16]
    plain = rows[0]
    assert plain["tokens_per_step"] == 1
    assert plain["step_overhead"] == plain["speedup_vs_autoregressive"] == 1
    assert rows[-1]["tokens_per_step"] > 1
    for row in rows:
        assert row["num_new_tokens"] == 2 * 24
        assert len(row["rounds"]) == 2
        assert min(row[key] for key in ("tokens_per_second", "step_ms", "prefill_ms")) > 0


def test_checkpoint_decoders_agree(checkpoint):
    report, out = checkpoint
    assert report["identical_float32"] is True
    assert all(row["identical"] and not row["different_prompts"] for row in report["rows"])
    assert "Identical float32 tokens from every decoder: yes" in out


def test_checkpoint_compares_with_transformers_where_torch_is(checkpoint):
    report, out = checkpoint
    decoders = {row["decoder"] for row in report["rows"]}
    speedups = [row["speedup_vs_transformers"] for row in report["rows"]]
    if report["versions"]["torch"] is None:
        assert "torch is not installed" in report["notes"][0]
        assert report["notes"][0] in out
        assert "transformers" not in decoders
        assert speedups == [None] * 3
    else:
        assert "transformers" in decoders
        assert min(speedups) > 0


def test_shape_report_measures_steps_with_and_without_a_tree(shape):
    report, out = shape
    assert set(report) == SHARED_KEYS | {"copy", "notes"}
    assert report["mode"] == "shape"
    assert report["copy"]["bytes_per_second"] > 0
    rows = report["rows"]
    assert [row["nodes"] for row in rows] == [1, 8] * 4
    assert [row["heads_used"] for row in rows] == [0, 3] * 4
    cells = [(row["context"], row["batch_size"]) for row in rows[::2]]
    assert cells == [(512, 1), (512, 2), (32, 1), (32, 2)]
    for row in rows:
        assert min(row["step_ms"], row["prefill_ms"]) > 0
        assert row["cache_bytes_read"] == row["cache_bytes"]  # a CPU has no kernel
        expected = (row["parameter_bytes"] + row["cache_bytes"]) / (row["step_ms"] / 1e3)
        assert row["bytes_per_second"] == pytest.approx(expected)
        assert row["copy_fraction"] == pytest.approx(expected / report["copy"]["bytes_per_second"])
        speed = row["batch_size"] * row["tokens_per_step"] / (row["step_ms"] / 1e3)
        assert row["tokens_per_second"] == pytest.approx(speed)
        assert (row["tokens_per_step"] > 1) == (row["nodes"] > 1)
    for nodes in ("1", "8"):
        assert any(line.split()[1:2] == [nodes] for line in out.splitlines())


def test_shape_bytes_are_those_of_the_weights_and_the_cache(shape):
    plain, tree, *_, last = shape[0]["rows"]
    # Tiny: five layers, D 64, F 172, 8 heads and 4 key heads of 8, V 512, tied embeddings.
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172 + 2 * 64
    assert plain["parameter_bytes"] == 4 * (5 * layer + 64 + 512 * 64)
    assert plain["cache_bytes"] == 4 * 2 * 5 * 4 * 8 * 1024
    head = 64 * 64 + 64 + 512 * 64
    assert tree["parameter_bytes"] == plain["parameter_bytes"] + 4 * 3 * head
    assert tree["cache_bytes"] == plain["cache_bytes"]
    assert last["cache_bytes"] == 4 * 2 * 5 * 4 * 8 * (32 + 512) * 2


def test_a_shape_on_two_devices_in_8_bits(results, shape, folder):
    assert results["two"].code == 0, results["two"].err
    report = json.loads((folder / "two").read_text())
    assert (report["settings"]["mesh"], report["settings"]["quantize"]) == ("tensor=2", "int8")
    for row, whole in zip(report["rows"], shape[0]["rows"][4:6], strict=True):
        assert row["nodes"] == whole["nodes"]
        # A byte in place of four, and a scale of four bytes per row of a matrix of 64 or more.
        assert row["parameter_bytes"] < 0.35 * whole["parameter_bytes"]
        assert row["tokens_per_step"] == whole["tokens_per_step"]


def test_what_would_take_longer_than_there_is_time_is_left_out(results, folder):
    report = json.loads((folder / "brief").read_text())
    assert {row["context"] for row in report["rows"]} == {32}
    (note,) = report["notes"]
    assert note == "float32, 1 rows of 64 tokens were left out: 0 minutes would not be enough"
    assert note in results["brief"].out.replace("\n", " ")


def test_mistakes_end_in_one_line_and_exit_code_2(results, folder):
    for case, message in MISTAKES.items():
        done = results[case]
        lines = done.err.splitlines()
        error = [line for line in lines if not line.startswith("the machine is busy")]
        assert (done.code, done.out, len(error)) == (2, "", 1), done.err
        assert message in error[0]
    assert list((folder / "empty").iterdir()) == []


def test_help_teaches(results):
    text = results["help"].out
    assert text.count("python -m infer.benchmark") == 7
    for name in ("model", "medusa", "prompt_file", "max_new_tokens", "trees", "dtypes", "rounds"):
        assert f"  --{name}\n" in text
    for name in (
        "batches",
        "sampling",
        "shape",
        "batch_sizes",
        "contexts",
        "mesh",
        "quantize",
        "heads",
        "minutes",
        "output",
        "compilation_cache",
    ):
        assert f"  --{name}\n" in text
