"""What the settings of a joint run say reaches its steps: lambda_0, alpha / r, and dropout."""

import functools

import jax
import numpy as np
import pytest

from configs import tiny
from medusa_jax.mesh import make_mesh
from medusa_jax.model import MedusaLM
from medusa_jax.nn.lora import merge_lora
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.packed import SMALL, packed_batch, quick_jit, random_backbone, random_lora
from train.recipe import make_settings
from train.setup import build

BATCH = packed_batch(np.random.default_rng(0), rows=4, length=16)
TREE = build_tree([[0], [0, 0]])
RANK = 4


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def joint_run(**changes):
    """The experiment that `train.run` builds of these settings, and its programs."""
    config = tiny.get_config()
    common = {"objective": "medusa2", "num_heads": 2, "tree": "chain:2", "steps": 10}
    config.update(**common, heads_schedule="constant", lora_rank=RANK)
    config.update(lora_alpha=8.0, lora_dropout=0.0)
    config.update(changes)
    lm = MedusaLM(config=SMALL, params=random_backbone(SMALL), dtype="float32")
    experiment = build(make_settings(config), lm, make_mesh(1, 1, 1), None)
    return experiment, quick_jit(experiment.step.update), quick_jit(experiment.step.evaluate)


def params_of(experiment, adapters):
    """What is trained; of the adapters only these parts are not zero."""
    lora = random_lora(random_backbone(SMALL), RANK)
    lora = {
        part: x if part in adapters else jax.tree.map(np.zeros_like, x) for part, x in lora.items()
    }
    return experiment.state["params"] | {"lora": lora}


def first_step(run, adapters=()):
    """The report of a first step."""
    experiment, update, _ = run
    state = experiment.state | {"params": params_of(experiment, adapters)}
    return jax.device_get(update(state, experiment.frozen, BATCH, TREE)[1])


def evaluated_lm_loss(run, params):
    sums, count_J = run[2](params, BATCH, TREE)
    return float(sums["lm_loss"] / count_J[0])


def test_lambda_0_weighs_the_heads():
    report = first_step(joint_run(heads_coef=0.37, head_decay=0.5))
    heads = 0.5 * report["head_loss"][0] + 0.25 * report["head_loss"][1]
    np.testing.assert_allclose(report["loss"], report["lm_loss"] + 0.37 * heads, rtol=1e-5)


@pytest.mark.parametrize("part", ["lm_head", "layers_0"])
@pytest.mark.parametrize("alpha", [2.0, 8.0])
def test_adapters_weigh_alpha_over_the_rank(part, alpha):
    """As much as in the export, where they are merged into the weights."""
    run = joint_run(lora_alpha=alpha)
    lora = {part: random_lora(random_backbone(SMALL), RANK)[part]}
    merged = {"backbone": merge_lora(random_backbone(SMALL), lora, alpha / RANK)}
    wanted = evaluated_lm_loss(run, merged | {"heads": run[0].state["params"]["heads"]})
    np.testing.assert_allclose(first_step(run, [part])["lm_loss"], wanted, rtol=1e-4)


@pytest.mark.parametrize("part", ["lm_head", "layers_0"])
def test_inputs_of_every_adapter_are_dropped(part):
    """Nothing else is, and evaluations drop nothing."""
    plain, dropping = joint_run(), joint_run(lora_dropout=0.3)
    assert first_step(dropping)["lm_loss"] == first_step(plain)["lm_loss"]
    wanted, got = (first_step(run, [part])["lm_loss"] for run in (plain, dropping))
    assert abs(got - wanted) > 1e-3
    params = plain[0].frozen | params_of(plain[0], [part])
    np.testing.assert_allclose(evaluated_lm_loss(dropping, params), wanted, rtol=1e-6)
