"""From settings to an experiment: every setting arrives where it has an effect."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.placement import place_params
from medusa_jax.mesh import make_mesh
from medusa_jax.model import MedusaLM
from medusa_jax.nn.llama import lm_head_weight
from medusa_jax.sharding import replicated
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.packed import packed_batch, random_backbone, random_heads
from tests.train.small_runs import CONFIG, make
from train.distributed import global_batch
from train.planning.experiment import train_program
from train.setup import abstract_state, build, compiled_evaluate, compiled_update, heads_config

HEADS = MedusaConfig(num_heads=4, hidden_size=32, vocab_size=264, own_projection=True)
MESH = (2, 2, 1)
TREE = load_tree("mc_sim_7b_63", 4)


@pytest.fixture(scope="module", autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def model(heads: MedusaConfig | None = None, dtype: str = "float32") -> MedusaLM:
    mesh = make_mesh(*MESH)
    return MedusaLM(
        config=CONFIG,
        params=place_params(jax.tree.map(lambda x: x.astype(dtype), random_backbone(CONFIG)), mesh),
        heads_config=heads,
        heads_params=None if heads is None else place_params(random_heads(heads), mesh),
        dtype=dtype,
    )


def settings_of(**changes: Any):
    return make("model", "data", MESH, **changes)


def experiment_of(lm: MedusaLM | None = None, token_map: np.ndarray | None = None, **changes: Any):
    return build(settings_of(**changes), lm or model(), make_mesh(*MESH), token_map)


@pytest.mark.parametrize(
    ("changes", "trained", "frozen"),
    [
        ({"objective": "medusa1"}, {"heads"}, {"backbone"}),
        ({"objective": "medusa2"}, {"heads", "backbone"}, set()),
        ({"objective": "medusa2", "lora_rank": 4}, {"heads", "lora"}, {"backbone"}),
        ({"objective": "self_distill", "lora_rank": 4}, {"heads", "lora"}, {"backbone"}),
    ],
)
def test_what_is_trained_and_what_is_not(changes, trained, frozen):
    experiment = experiment_of(**changes)
    assert experiment.state["params"].keys() == trained
    assert experiment.frozen.keys() == frozen
    for leaf in jax.tree.leaves(experiment.state["params"]):
        assert leaf.dtype == jnp.float32
    assert int(experiment.state["step"]) == 0


def test_a_frozen_backbone_stays_as_it_was_loaded_or_is_quantised():
    lm = model(dtype="bfloat16")
    frozen = experiment_of(lm, objective="medusa1").frozen["backbone"]
    assert frozen is lm.params
    few = experiment_of(objective="medusa1", quantize="int8").frozen["backbone"]
    queries = few["layers_0"]["attn"]["q"]["weight"]
    assert queries.qvalue.dtype == jnp.int8
    assert few["embed"]["weight"].dtype == jnp.float32


def test_adapters_are_drawn_from_the_seed_and_change_nothing_yet():
    of = functools.partial(experiment_of, objective="medusa2", lora_rank=4)
    first, again, other = (of(seed=seed).state["params"]["lora"] for seed in (1, 1, 2))
    a, b = (jax.tree.leaves_with_path(x) for x in (first, again))
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))
    pairs = zip(a, jax.tree.leaves(other), strict=True)
    different = [not np.array_equal(x, y) for (_, x), y in pairs]
    assert [path[-1].key == "a" for path, _ in a] == different
    assert not any(np.any(x) for path, x in a if path[-1].key == "b")


def test_fresh_heads_are_rows_of_the_lm_head_given_ones_are_taken():
    token_map = np.asarray([3, 9, 70, 200, 201, 202, 203, 263])
    fresh = experiment_of(token_map=token_map, draft_vocab=8, export_format="none")
    weight_MVD = fresh.state["params"]["heads"]["projection"]["weight"]
    expected_VD = np.asarray(lm_head_weight(model().params))[token_map]
    for weight_VD in np.asarray(weight_MVD):
        np.testing.assert_array_equal(weight_VD, expected_VD)
    np.testing.assert_array_equal(fresh.frozen["token_map"], token_map)
    given = experiment_of(model(HEADS))
    expected = random_heads(HEADS)
    jax.tree.map(np.testing.assert_array_equal, given.state["params"]["heads"], expected)


def test_the_heads_are_those_of_the_settings():
    settings = settings_of(
        num_heads=5, num_layers=2, own_projection=False, conditioning="root", export_format="none"
    )
    assert heads_config(settings, model(), np.arange(16)) == MedusaConfig(
        num_heads=5,
        num_layers=2,
        hidden_size=32,
        vocab_size=16,
        own_projection=False,
        draft_vocab=True,
        conditioning="root",
    )
    without_bias = dataclasses.replace(HEADS, bias=False)
    assert heads_config(settings_of(), model(without_bias), None) == without_bias


@pytest.mark.parametrize("own", [False, True])
def test_heads_may_learn_to_see_more(own):
    plain = dataclasses.replace(HEADS, own_projection=own)
    changes = {"own_projection": own, "export_format": "none", "markov_rank": 3}
    settings = settings_of(conditioning="gated_markov", **changes)
    experiment = build(settings, model(plain), make_mesh(*MESH), None)
    assert (experiment.heads.conditioning, experiment.heads.markov_rank) == ("gated_markov", 3)
    heads, before = experiment.state["params"]["heads"], random_heads(plain)
    jax.tree.map(np.testing.assert_array_equal, heads["blocks"], before["blocks"])
    assert heads["markov_gate"]["weight"].shape == (3, 32 + 3)
    if own:
        return
    with pytest.raises(UserError, match="have conditioning none, the configuration asks for recu"):
        heads_config(settings_of(conditioning="recurrent", **changes), model(plain), None)
    root = dataclasses.replace(plain, conditioning="root")
    with pytest.raises(UserError, match="have conditioning root, the configuration asks for none"):
        heads_config(settings_of(medusa="some/heads", **changes), model(root), None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 2}, "num_layers 1, the configuration asks for 2"),
        ({"num_heads": 5}, "num_heads 4, the configuration asks for 5"),
    ],
)
def test_other_heads_to_start_from_are_refused(changes, words):
    settings = settings_of(medusa="some/heads", **changes)
    with pytest.raises(UserError) as error:
        heads_config(settings, model(HEADS), None)
    assert str(error.value).startswith(f"the heads in some/heads have {words}")


def test_a_draft_vocabulary_is_at_most_as_large_as_the_settings_say():
    """Smaller, if the labels that the heads were trained on had no more tokens."""
    heads = dataclasses.replace(HEADS, own_projection=False, vocab_size=16, draft_vocab=True)
    changes = {"own_projection": False, "export_format": "none", "medusa": "some/heads"}
    of = functools.partial(settings_of, **changes)
    for size in (16, 40):
        assert heads_config(of(draft_vocab=size), model(heads), np.arange(16)) == heads
    for size in (0, 8):
        with pytest.raises(UserError, match=f"draft_vocab={size}: set config.draft_vocab=16"):
            heads_config(of(draft_vocab=size), model(heads), np.arange(16))


def test_settings_reach_the_objective_and_the_step():
    changes = {"objective": "medusa2", "lora_rank": 4, "lora_alpha": 10.0, "lora_dropout": 0.25}
    changes |= {
        "head_decay": 0.5,
        "dtype": "bfloat16",
        "remat": "products",
        "accumulate": 2,
        "seed": 7,
    }
    experiment = experiment_of(**changes)
    objective = experiment.step.objective
    assert (objective.kind, objective.head_decay, objective.head_labels) == (
        "medusa2",
        0.5,
        "tokens",
    )
    assert (objective.lora_scale, objective.lora_dropout) == (2.5, 0.25)
    assert (objective.dtype, objective.remat) == ("bfloat16", "products")
    assert objective.heads == experiment.heads
    assert (experiment.step.accumulate, experiment.step.seed) == (2, 7)
    assert experiment_of(head_labels="l1", objective="medusa1").step.objective.head_labels == "l1"


def test_the_heads_warm_up_takes_its_share_of_the_steps():
    changes = {"steps": None, "epochs": 3.0, "heads_schedule": "sine", "heads_ramp": 0.5}
    by_epochs = settings_of(**changes, heads_coef=0.2)
    settings = dataclasses.replace(by_epochs, steps=40)  # as `with_steps` leaves it
    coef = build(settings, model(), make_mesh(*MESH), None).step.heads_coef
    found = [float(coef(step)) for step in (0, 10, 20, 39)]
    np.testing.assert_allclose(found, [0, 0.2 * np.sqrt(0.5), 0.2, 0.2], rtol=1e-6, atol=1e-8)


def test_the_learning_rate_of_each_group_falls_to_zero_at_the_last_step():
    step = experiment_of(steps=6, warmup_steps=2, learning_rate=0.1, head_lr_multiplier=3.0).step
    params = {"heads": {"w": jnp.ones(())}, "backbone": {"w": jnp.ones(())}}
    state, sizes = step.optimizer.init(params), []
    for _ in range(7):
        updates, state = step.optimizer.update(params, state, params)
        sizes.append([-float(updates[name]["w"]) for name in ("backbone", "heads")])
    expected = [0, 0.05, 0.1, *(0.05 * (1 + np.cos(np.pi * k / 4)) for k in (1, 2, 3, 4))]
    np.testing.assert_allclose(sizes, [[x, 3 * x] for x in expected], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "is_once"),
    [
        ({"objective": "medusa2", "lora_rank": 4, "lora_dropout": 0.1}, True),
        ({"objective": "medusa2", "lora_rank": 0}, True),
        ({"objective": "self_distill", "lora_rank": 4}, True),
        ({"objective": "medusa1", "lora_rank": 0}, False),  # no gradient: quick to compile
    ],
)
def test_layers_with_a_gradient_are_compiled_once_on_one_device(changes, is_once):
    def products(num_layers):
        config, mesh = dataclasses.replace(CONFIG, num_layers=num_layers), make_mesh(1, 1, 1)
        program = train_program(make("model", "data", (1, 1, 1), **changes), config, mesh)
        text = compiled_update(program.experiment, mesh).lower(*program.arguments).as_text()
        return text.count("dot_general"), text.count(" call @")  # a layer may be a function

    assert (products(5) == products(2)) is is_once


def test_programs_keep_shardings_and_take_the_old_states_memory():
    experiment, mesh = experiment_of(objective="medusa1", lora_rank=0), make_mesh(*MESH)
    before = abstract_state(experiment.state)
    batch = global_batch(mesh, packed_batch(np.random.default_rng(0), 4, 32, CONFIG.vocab_size))
    sums, count = compiled_evaluate(experiment, mesh)(
        experiment.frozen | experiment.state["params"], batch, TREE
    )
    assert {leaf.sharding for leaf in jax.tree.leaves((sums, count))} == {replicated(mesh)}
    state, report = compiled_update(experiment, mesh)(
        experiment.state, experiment.frozen, batch, TREE
    )
    after = abstract_state(state)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (old.shape, old.dtype, old.sharding) == (new.shape, new.dtype, new.sharding)
    weight = experiment.state["params"]["heads"]["projection"]["weight"]
    assert weight.is_deleted()
    assert np.isfinite(report["loss"])
    assert int(state["step"]) == 1
