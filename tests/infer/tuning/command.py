"""`infer.tune`, with a made-up clock."""

import json

import jax
import pytest
from absl.testing import flagsaver

import medusa_jax
from infer import tune
from infer.tuning import step_times
from medusa_jax.cli.run import run_main
from medusa_jax.decoding.auto import auto_choice
from medusa_jax.io.measurements import acceptance_file, read_measured, write_content


@pytest.fixture
def call(monkeypatch, tmp_path, capsys, stories260k, heads):
    """Runs the command: exit code, stdout, stderr. bfloat16 is twice as fast; 4 nodes are free."""
    monkeypatch.setenv("MEDUSA_JAX_CACHE", str(tmp_path / "cache"))

    class Clock:
        def __init__(self, lm, prospect, batch, nodes, slots):
            self.seconds = batch * (1.0 if nodes <= 4 else nodes)
            self.seconds /= 2 if lm.dtype == "bfloat16" else 1

        def visit(self):
            return self.seconds

    monkeypatch.setattr(step_times, "StepClock", Clock)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "One day"}\n{"prompt": "The cat"}\n{"prompt": "Tom"}\n')

    def run(*argv, prompts=prompts):
        command = ["tune", "--model", str(stories260k), "--medusa", str(heads)]
        command += [] if prompts is None else ["--prompt_file", str(prompts)]
        command += ["--max_new_tokens=24", *argv]
        monkeypatch.setattr("sys.argv", command)
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
            run_main(tune.main)
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return run


def test_what_is_measured_is_kept_shown_and_used(call, tmp_path, stories260k, heads):
    file = tmp_path / "tuned.json"
    code, out, err = call("--temperatures=0,1", "--batch_sizes=1,8", f"--output={file}")
    assert code == 0, err
    assert "default --dtype of this model here is now bfloat16" in out
    report = json.loads(file.read_text())
    assert [x["temperature"] for x in report["acceptance"]] == [0, 1]
    chosen = {(r["dtype"], r["batch"]): r["nodes"] for r in report["rows"] if r["chosen"]}
    assert chosen == {(d, b): 4 for d in ("float32", "bfloat16") for b in (1, 8)}
    lm = medusa_jax.load(str(stories260k), str(heads))
    assert (lm.dtype, lm.tree.R) == ("bfloat16", 4)
    choice = auto_choice(lm, medusa_jax.GenerationConfig(), 1, 100)
    assert (choice.nodes, choice.source) == (4, "measured")


def test_an_interrupted_measurement_goes_on(call, monkeypatch, tmp_path):
    done = []

    def label_ranks(lm, prompt, reply, config, number):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(number)
        return original(lm, prompt, reply, config, number)

    original = tune.measure_acceptance.__globals__["ranks_of"].label_ranks
    monkeypatch.setattr("infer.tuning.acceptance.label_ranks", label_ranks)
    assert call("--dtypes=float32", "--batch_sizes=1")[0] == 130
    done.clear()
    assert call("--dtypes=float32", "--batch_sizes=1")[0] == 0
    assert len(done) == 1  # of three prompts


def test_until_all_step_times_are_there_the_old_ones_count(call, monkeypatch, stories260k, heads):
    """Or an interrupted command, which begins with plain decoding, would make that the choice."""
    files = (stories260k, heads, jax.devices()[0])
    clock, asked = step_times.StepClock, []

    def interrupted(lm, prospect, batch, nodes, slots):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(nodes)
        return clock(lm, prospect, batch, nodes, slots)

    monkeypatch.setattr(step_times, "StepClock", interrupted)
    assert call("--dtypes=float32", "--batch_sizes=1")[0] == 130
    assert asked == [1, 2]
    assert read_measured(*files).times == {}
    asked.clear()
    monkeypatch.setattr(step_times, "StepClock", clock)
    assert call("--dtypes=float32", "--batch_sizes=1")[0] == 0
    before = read_measured(*files).times["float32"]
    monkeypatch.setattr(step_times, "StepClock", interrupted)
    assert call("--dtypes=float32", "--batch_sizes=1", "--overwrite")[0] == 130
    assert asked == [1, 2]
    assert read_measured(*files).times["float32"] == before


def test_overwriting_leaves_what_came_with_the_heads(call, stories260k, heads, tmp_path):
    files = (stories260k, heads, jax.devices()[0])
    beside, own = ({"temperature": t, "rates": [[[0.5]]]} for t in (1.0, 0.7))
    (heads / "acceptance.json").write_text(json.dumps({"acceptance": [beside]}))
    try:
        write_content(acceptance_file(*files[:2]), {"acceptance": [own]})
        flags = ("--dtypes=float32", "--batch_sizes=1", "--temperatures=1", "--overwrite")
        assert call(*flags, prompts=None)[0] == 0
        assert list(read_measured(*files).acceptance.by_temperature) == [1.0]
        assert call("--dtypes=float32", "--batch_sizes=1", "--temperatures=0")[0] == 0
        by_temperature = read_measured(*files).acceptance.by_temperature
        assert sorted(by_temperature) == [0.0, 1.0]
        assert by_temperature[1.0].rate_MPK.tolist() == [[[0.5]]]
        assert "1.0" not in acceptance_file(*files[:2]).read_text()
    finally:
        (heads / "acceptance.json").unlink()


def test_the_default_dtype_follows_from_one_row_and_two_dtypes(call, stories260k, heads):
    files = (stories260k, heads, jax.devices()[0])
    for flags in (["--dtypes=bfloat16", "--batch_sizes=1"], ["--batch_sizes=64"]):
        code, out, _ = call(*flags)
        assert (code, "default --dtype" in out) == (0, False)
        assert read_measured(*files).fastest is None
    code, out, _ = call("--dtypes=float32", "--batch_sizes=1")
    assert (code, "default --dtype of this model here is now bfloat16" in out) == (0, True)
    assert read_measured(*files).fastest == "bfloat16"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--temperatures=cold", "--temperatures is cold: give numbers from 0"),
        ("--temperatures=-1", "give numbers from 0"),
        ("--batch_sizes=0", "--batch_sizes is 0: give numbers from 1"),
        ("--batch_sizes=", "give numbers from 1"),
        ("--dtypes=int4", "choose from float32, bfloat16"),
        ("--prompt_file=no.jsonl", "cannot read the prompt file"),
        ("--output=/no/where.json", "cannot write"),
        ("--medusa=none", "there are no Medusa heads to tune"),
    ],
)
def test_bad_input_is_one_line(call, flag, message):
    code, out, err = call(flag)
    assert (code, out) == (2, "")
    assert message in err
    assert err.rstrip().count("\n") <= 1  # after, perhaps, a note that the machine is busy


def test_help_teaches(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "python -m infer.tune" in out
    assert "--batch_sizes" in out
