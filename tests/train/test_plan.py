"""Planning training: an experiment of shapes alone, and the command."""

import json

import jax
import jax.numpy as jnp
import pytest

from configs import base, tiny
from medusa_jax import MedusaLM
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.mesh import make_mesh
from medusa_jax.plan.models import config_of
from tests.commands import run_many
from tests.medusa_jax.plan.compilers import needs_tpu_compiler, told_nothing
from train.flops import Work, flops_per_token
from train.planning.experiment import train_program
from train.random_model import RANDOM_TINY, base_config, load_lm
from train.recipe import make_settings
from train.run import params_dtype
from train.settings import Settings
from train.setup import build


def settings_of(**changes) -> Settings:
    config = tiny.get_config()
    config.update(changes | {"mesh": {"data": 2, "fsdp": 2, "tensor": 2}})
    return make_settings(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "medusa1", "lora_rank": 0, "quantize": "none"},
        {"objective": "medusa2", "lora_rank": 0, "quantize": "none"},
        {"objective": "self_distill", "lora_rank": 4, "quantize": "none"},
        {"objective": "medusa2", "lora_rank": 4, "quantize": "int8"},
        {"objective": "medusa1", "lora_rank": 0, "quantize": "none", "own_projection": True},
    ],
)
def test_the_shapes_are_those_of_a_real_run(changes):
    """Leaf by leaf what `train.setup.build` makes of real weights: shape, dtype and sharding."""
    settings = settings_of(**changes)
    mesh = make_mesh(2, 2, 2)
    planned = train_program(settings, base_config(RANDOM_TINY), mesh).experiment
    lm: MedusaLM = load_lm(
        RANDOM_TINY, dtype=params_dtype(settings), mesh=mesh, heads_dtype="float32"
    )
    real = build(settings, lm, mesh, None)
    for ours, theirs in ((planned.state, real.state), (planned.frozen, real.frozen)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for shape, array in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert isinstance(shape, jax.ShapeDtypeStruct)
            assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
            assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)
    assert planned.work == real.work


def test_a_run_of_epochs_and_a_draft_vocabulary():
    settings = settings_of(steps=None, epochs=2.0, draft_vocab=64, export_format="none")
    program = train_program(settings, base_config(RANDOM_TINY), make_mesh(2, 2, 2))
    assert program.experiment.frozen["token_map"].shape == (64,)
    assert program.parts().keys() >= {"optimizer", "batch", "heads, trained"}


def test_a_batch_that_cannot_be_divided():
    settings = settings_of(batch_size=6)
    with pytest.raises(UserError, match="cannot be divided"):
        train_program(settings, base_config(RANDOM_TINY), make_mesh(2, 2, 2))


def test_the_recipes_models_come_with_the_package():
    """With the sizes that their papers and cards state."""
    sizes = {
        "lmsys/vicuna-7b-v1.5": 6.74,
        "lmsys/vicuna-13b-v1.5": 13.02,
        "lmsys/vicuna-33b-v1.3": 32.53,
        "HuggingFaceH4/zephyr-7b-beta": 7.24,
        "meta-llama/Meta-Llama-3-8B-Instruct": 8.03,
    }
    for model, billions in sizes.items():
        c = config_of(model)
        attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads)
        layer = attention + 3 * c.hidden_size * c.intermediate_size
        total = c.num_layers * layer + 2 * c.vocab_size * c.hidden_size
        assert total / 1e9 == pytest.approx(billions, rel=0.002), model
    assert config_of(None).num_layers == 30
    assert base.get_config().model is None  # which means the default one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def tpu_plans(folder):
    """What two command lines for a TPU did: one plans what fits, one what does not."""
    tiny = ["--config=configs/tiny.py", "--config.seq_len=64"]
    fits = ["--topology=v5e:2x2", f"--hlo={folder}"]
    large = ["--topology=v5e:1x1", "--config.batch_size=262144"]
    commands = [
        [*tiny, *fits, f"--output={folder / 'fits.json'}"],
        [*tiny, *large, f"--output={folder / 'large.json'}"],
    ]
    return run_many("train.plan", commands, told_nothing())


@needs_tpu_compiler
def test_a_plan(tpu_plans, folder):
    assert (tpu_plans[0].code, tpu_plans[0].err) == (0, "")
    found = json.loads((folder / "fits.json").read_text())
    assert found["fits"] is True
    assert found["num_devices"] == 4
    assert found["collective_bytes"]["all-reduce"] > 0  # the gradients of rows on other devices
    assert (folder / "update.txt").is_file()
    # Each device has two rows of 64 tokens; a step is as long as its cycles or its bound.
    seconds = max(found["step_cycles_compiler"] / 1.5e9, found["step_ms_roofline"] / 1e3)
    assert found["tokens_per_second_per_device"] == pytest.approx(2 * 64 / seconds)
    c = base_config(RANDOM_TINY)
    heads = MedusaConfig(num_heads=4, hidden_size=c.hidden_size, vocab_size=c.vocab_size)
    at_peak = 2 * 64 * flops_per_token(c, heads, 64, Work("medusa2")) / 197e12
    assert found["mfu_bound"] == pytest.approx(at_peak / (found["step_ms_roofline"] / 1e3))


@needs_tpu_compiler
def test_what_does_not_fit_is_an_answer(tpu_plans, folder):
    assert (tpu_plans[1].code, tpu_plans[1].err) == (0, "")
    assert "config.accumulate" in tpu_plans[1].out
    found = json.loads((folder / "large.json").read_text())
    assert found["fits"] is False
    assert found["total_bytes"] > found["hbm_bytes"]
    unknown = ("temp_bytes", "flops", "tokens_per_second_per_device", "mfu_bound")
    assert [found[name] for name in unknown] == [None] * 4
    assert "RESOURCE_EXHAUSTED" in found["takes_space"][0]
    # Of each token: itself, whether it is a label, its document and its place there.
    assert found["takes_space"][-1] == f"batch: {262144 * 64 * (4 + 1 + 4 + 4) / 1e9:.2f} GB"


def test_bad_flags():
    cases = {
        "--topology=v5e:2x2": "--config and --topology are both needed",
        "--config=configs/tiny.py --topology=h100": "unknown topology",
        "--config=configs/none.py --topology=h100:8": "cannot load --config",
    }
    results = run_many("train.plan", [case.split() for case in cases], told_nothing())
    for (case, words), result in zip(cases.items(), results, strict=True):
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), case
        assert words in result.err


def test_a_draft_vocabulary_is_no_larger_than_the_vocabulary():
    """As that of a run, which has as many tokens as its data."""
    settings = settings_of(
        objective="medusa1", lora_rank=0, quantize="none", draft_vocab=100_000, export_format="none"
    )
    planned = train_program(settings, base_config(RANDOM_TINY), make_mesh(2, 2, 2)).experiment
    assert planned.heads.vocab_size == base_config(RANDOM_TINY).vocab_size


def test_cached_hidden_states_are_float16_whatever_the_network_computes_in():
    """As `train.data.hidden_states` keeps them."""
    settings = settings_of(
        objective="medusa1", lora_rank=0, quantize="none", hidden_states="cached", dtype="float32"
    )
    batch = train_program(settings, base_config(RANDOM_TINY), make_mesh(2, 2, 2)).arguments[2]
    assert batch["hidden"].dtype == jnp.float16
