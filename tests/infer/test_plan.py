"""The command that plans decoding."""

import functools
import json

import pytest

from medusa_jax.model_shapes import SHAPES
from tests.commands import run_many
from tests.medusa_jax.plan.compilers import (
    needs_gpu_compiler,
    needs_tpu_compiler,
    run_module,
    told_nothing,
)

KEYS = {
    "topology", "device_kind", "num_devices", "hbm_bytes", "argument_bytes", "temp_bytes",
    "total_bytes", "fits", "compile_seconds", "flops", "hbm_traffic_bytes", "collective_bytes",
    "step_cycles_compiler", "step_ms_roofline", "overhead", "tokens_per_second",
}  # fmt: skip


plan = functools.partial(run_module, "infer.plan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def tpu_plans(folder):
    """What two command lines for a TPU did: one plans what fits, one what does not."""
    small = ["--shape=tiny", "--topology=v5e:1x1"]
    fits = ["--tree=mc_sim_7b_63:16", "--tokens_per_step=2", f"--hlo={folder / 'hlo'}", "--prefill"]
    large = ["--tree=chain:0", "--batch_size=40000"]
    commands = [
        [*small, *fits, f"--output={folder / 'fits.json'}"],
        [*small, *large, f"--output={folder / 'large.json'}"],
        [*small, "--mesh=tensor=2"],
        [*small, "--mesh=tensor=1,tensor=1"],
        [small[0], "--topology=v5e:2x2", "--mesh=tensor=3"],
        [*small, "--tree=chain:2", "--tokens_per_step=3.5"],
        [*small, "--tree=chain:2", "--tokens_per_step=nan"],
        [*small, "--dtype=float16"],
    ]
    return run_many("infer.plan", commands, told_nothing())


@needs_tpu_compiler
def test_a_plan(tpu_plans, folder):
    done = tpu_plans[0]
    assert (done.code, done.err) == (0, "")
    assert "tiny, 5 heads, tree mc_sim_7b_63:16" in done.out
    assert "TPU v5 lite" in done.out
    assert "estimate" in done.out
    found = json.loads((folder / "fits.json").read_text())
    assert found.keys() >= KEYS
    assert found["fits"] is True
    assert found["num_devices"] == 1
    assert 0.5 < found["overhead"] < 4  # of so small a model an estimate says little
    assert found["prefill"].keys() >= KEYS - {"overhead", "tokens_per_second"}
    programs = {"step.txt", "plain.txt", "prefill_last.txt", "prefill_middle.txt"}
    assert {file.name for file in (folder / "hlo").iterdir()} == programs
    assert all("ENTRY" in (folder / "hlo" / name).read_text() for name in programs)


@needs_tpu_compiler
def test_what_does_not_fit_is_an_answer(tpu_plans, folder):
    done = tpu_plans[1]
    assert (done.code, done.err) == (0, "")
    assert "--max_context" in done.out
    found = json.loads((folder / "large.json").read_text())
    assert found["fits"] is False
    # 5 layers of keys and values: 4 heads of 8, 1024 slots, two bytes.
    assert found["argument_bytes"] > 40000 * 5 * 2 * 4 * 8 * 1024 * 2
    unknown = KEYS - {"argument_bytes", "total_bytes"}
    assert [key for key in sorted(unknown) if found[key] is None] == [
        "collective_bytes",
        "flops",
        "hbm_traffic_bytes",
        "overhead",
        "step_cycles_compiler",
        "step_ms_roofline",
        "temp_bytes",
        "tokens_per_second",
    ]
    assert any(line.startswith("cache: ") for line in found["takes_space"])


@needs_tpu_compiler
@pytest.mark.parametrize(
    ("place", "words"),
    [
        (2, "needs 2 devices, there is 1"),
        (3, "give sizes of data, fsdp"),
        (4, "the first 3 devices are no block"),
        (5, "a step with this tree gives at most 3"),
        (6, "a step with this tree gives at most 3"),
        (7, "float16 is for GPUs without bfloat16"),
    ],
)
def test_what_cannot_be(tpu_plans, place, words):
    done = tpu_plans[place]
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err


def own_words(stderr):
    """Without what JAX itself says where its CUDA packages find no driver, when it is imported."""
    words = ("cudart_stub.cc", "absl::InitializeLog")
    return [line for line in stderr.splitlines() if not any(word in line for word in words)]


@needs_gpu_compiler
def test_a_plan_for_a_gpu(tmp_path):
    argv = ("--shape=tiny", "--topology=h100:1", "--tree=mc_sim_7b_63:16", "--tokens_per_step=2")
    done = plan(*argv, f"--output={tmp_path / 'plan.json'}")
    assert (done.returncode, own_words(done.stderr)) == (0, [])
    assert "NVIDIA H100" in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found.keys() >= KEYS
    assert found["fits"] is True
    assert found["step_cycles_compiler"] is None
    assert found["tokens_per_second"] > 0


@needs_gpu_compiler
def test_what_a_gpu_has_no_room_for_is_an_answer():
    done = plan("--shape=tiny", "--topology=t4:1", "--tree=chain:0", "--batch_size=40000")
    assert (done.returncode, own_words(done.stderr)) == (0, [])
    assert "--max_context" in done.stdout
    # 5 layers of keys and values: 4 heads of 8, 1024 slots, two bytes.
    assert f"cache: {40000 * 5 * 2 * 4 * 8 * 1024 * 2 / 1e9:.2f} GB" in done.stdout


def test_bad_flags():
    cases = {
        "--shape=tiny": "--topology is needed",
        "--shape=tiny --topology=v9:2x2": "unknown topology",
        "--shape=tiny --model=m --topology=v5e:2x2": "exclude each other",
    }
    results = run_many("infer.plan", [case.split() for case in cases], told_nothing())
    for (case, words), result in zip(cases.items(), results, strict=True):
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), case
        assert result.err.startswith("error: ")
        assert words in result.err


def test_shapes_have_the_sizes_of_their_names():
    for name in ("llama-7b", "llama-8b", "llama-13b", "llama-33b", "llama-70b"):
        c = SHAPES[name]
        attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
        layer = attention + 3 * c.hidden_size * c.intermediate_size
        total = c.num_layers * layer + 2 * c.vocab_size * c.hidden_size
        assert total / 1e9 == pytest.approx(float(name[6:-1]), rel=0.05), name
