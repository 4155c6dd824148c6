"""One training step on 8 fake devices: the same on every mesh, and what the devices exchange."""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from configs import tiny
from medusa_jax.config import LlamaConfig
from medusa_jax.io.placement import place_params
from medusa_jax.mesh import make_mesh
from medusa_jax.model import MedusaLM
from medusa_jax.nn import attention
from medusa_jax.tree.presets import load_tree
from tests.medusa_jax.packed import packed_batch, random_backbone
from train.distributed import global_batch
from train.recipe import make_settings
from train.setup import Experiment, build, compiled_update

CONFIG = LlamaConfig(
    vocab_size=72,
    hidden_size=40,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position=64,
)
# Two blocks of time for a head alone: the compiler removes a loop that runs once.
ROWS, LENGTH, TIME_BLOCK, NUM_HEADS = 16, 64, 12, 4
RECIPES = {
    "medusa1": {"objective": "medusa1", "accumulate": 2},
    "medusa2": {"objective": "medusa2", "remat": "nothing"},
    "lora": {"objective": "self_distill", "lora_rank": 8, "lora_dropout": 0.1, "remat": "products"},
    "qlora": {"objective": "medusa2", "lora_rank": 8, "quantize": "int8"},
    "shared": {
        "objective": "medusa1",
        "own_projection": False,
        "conditioning": "root",
        "head_labels": "distribution",
        "draft_vocab": 36,
        "export_format": "none",
    },
    "recurrent": {
        "objective": "medusa1",
        "own_projection": False,
        "conditioning": "recurrent",
        "export_format": "none",
    },
}
ONE, DATA, FSDP, ALL = (1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)


@pytest.fixture(scope="module", autouse=True)
def _two_blocks_of_queries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_QUERY_BLOCK", 32)
        yield


@dataclasses.dataclass(frozen=True)
class OneStep:
    """What a step reports, its gradients (a first moment is a tenth of them), and its program."""

    report: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    experiment: Experiment
    program: str


@functools.cache
def one_step(recipe: str, sizes: tuple[int, int, int]) -> OneStep:
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        mesh = make_mesh(*sizes)
        experiment = make_experiment(RECIPES[recipe], mesh)
        batch = packed_batch(np.random.default_rng(0), ROWS, LENGTH, CONFIG.vocab_size)
        arguments = (
            jax.tree.map(jax.numpy.copy, experiment.state),  # it will be donated
            experiment.frozen,
            global_batch(mesh, batch),
            load_tree("mc_sim_7b_63", NUM_HEADS),
        )
        compiled = compiled_update(experiment, mesh).lower(*arguments).compile()
        state, report = compiled(*arguments)
    moments = optax.tree.get_all_with_path(state["opt"], "mu")
    gradients = {
        f"{path}{jax.tree_util.keystr(inner)}": np.asarray(leaf) * 10
        for path, moment in moments
        for inner, leaf in jax.tree_util.tree_flatten_with_path(moment)[0]
    }
    return OneStep(jax.tree.map(np.asarray, report), gradients, experiment, compiled.as_text())


def make_experiment(changes: dict[str, Any], mesh, network: LlamaConfig = CONFIG) -> Experiment:
    config = tiny.get_config()
    config.update(batch_size=ROWS, seq_len=LENGTH, num_heads=NUM_HEADS, grad_clip=1e9, **changes)
    backbone = jax.tree.map(np.asarray, random_backbone(network))
    lm = MedusaLM(
        config=network,
        params=place_params(backbone, mesh),
        dtype="float32",
    )
    token_map = np.arange(0, CONFIG.vocab_size, 2) if config.draft_vocab else None
    experiment = build(make_settings(config), lm, mesh, token_map)
    objective = dataclasses.replace(experiment.step.objective, time_block=TIME_BLOCK)
    step = dataclasses.replace(experiment.step, objective=objective)
    state = experiment.state | {"params": moved(experiment.state["params"])}
    return dataclasses.replace(experiment, step=step, state=state)


def moved(params):
    """Off the start, at which half of the gradients are zero."""
    rng = np.random.default_rng(1)

    def move(x):
        noise = rng.normal(size=x.shape).astype(np.float32) * 0.1
        return jax.device_put(np.asarray(x) + noise, x.sharding)

    return jax.tree.map(move, params)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("sizes", [DATA, FSDP, ALL])
def test_loss_and_gradients_are_the_same_on_every_mesh(recipe, sizes):
    expected, found = one_step(recipe, ONE), one_step(recipe, sizes)
    assert found.report.keys() == expected.report.keys() >= {"loss", "head_loss"}
    for name, value in expected.report.items():
        np.testing.assert_allclose(found.report[name], value, rtol=1e-5, err_msg=name)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        largest = np.abs(gradient).max()
        assert largest > 1e-5, name
        np.testing.assert_allclose(
            found.gradients[name], gradient, rtol=0, atol=1e-5 * largest, err_msg=name
        )


def exchanged(program: str, kind: str) -> list[tuple[str, int]]:
    """Type and number of elements of every array that collectives of a kind result in."""
    results = re.findall(rf"= (\S+|\(.*?\)) {kind}(?:-start)?\(", program)
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", " ".join(results))
    return [(dtype, math.prod(int(n) for n in size.split(",") if n)) for dtype, size in arrays]


def largest_parameter(step: OneStep) -> int:
    params = step.experiment.state["params"], step.experiment.frozen
    return max(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("recipe", RECIPES)
def test_fsdp_gathers_one_matrix_at_a_time(recipe):
    step = one_step(recipe, FSDP)
    limit = largest_parameter(step)
    # So that a device that gathered the activations of all rows would be found out.
    rows = ROWS // RECIPES[recipe].get("accumulate", 1)
    assert limit < rows * LENGTH * CONFIG.hidden_size
    gathered = exchanged(step.program, "all-gather")
    assert len(gathered) >= 7  # of a layer's matrices at least
    for dtype, size in gathered:
        assert size <= limit, (dtype, size)
    for dtype, size in exchanged(step.program, "all-reduce"):
        assert size <= limit, (dtype, size)


def loops(program: str) -> list[str]:
    """The text of every loop's body and of all that it calls, loops inside of it included."""
    named = re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", program, re.M | re.S)
    texts = dict(named)

    def reached(name: str) -> str:
        called = re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", texts[name])
        return "".join([texts[name], *(reached(other) for other in called)])

    return [reached(body) for body in re.findall(r"body=%?([\w.-]+)", program)]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("sizes", [DATA, FSDP])
def test_heads_exchange_nothing_within_the_loop_over_time(recipe, sizes):
    """Matrices are gathered before it and gradients added up over the devices after it."""
    innermost = [body for body in loops(one_step(recipe, sizes).program) if "body=" not in body]
    # Of products with a part of the vocabulary, which nothing else here is as large as.
    logits = r"f32\[(?:\d+,)*(?:72|36)(?:,\d+)*\][^\n]* dot\("
    over_time = [body for body in innermost if re.search(logits, body)]
    assert over_time
    for body in over_time:
        assert not re.findall(r"(?:all-gather|all-reduce|reduce-scatter|all-to-all)[\w-]*\(", body)


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_alone_share_nothing_but_sums(recipe):
    step = one_step(recipe, DATA)
    for kind in ("all-gather", "all-to-all", "collective-permute"):
        assert exchanged(step.program, kind) == []
    assert exchanged(step.program, "all-reduce")


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_stay_where_their_part_of_the_vocabulary_is(recipe):
    rows = ROWS // RECIPES[recipe].get("accumulate", 1) // (ALL[0] * ALL[1])
    logits = rows * TIME_BLOCK * NUM_HEADS * CONFIG.vocab_size  # of one device's rows
    embedded = rows * LENGTH * NUM_HEADS * CONFIG.hidden_size  # what recurrent heads see
    seen = {embedded} if RECIPES[recipe].get("conditioning") == "recurrent" else set()
    program = one_step(recipe, ALL).program
    for kind in ("all-gather", "all-to-all", "all-reduce"):
        for dtype, size in exchanged(program, kind):
            assert size < logits or size in seen, (kind, dtype, size)


def test_heads_are_gathered_in_the_compute_dtype_and_their_gradients_added_up_in_float32():
    """As the program is written: a CPU's compiler widens what it adds up anyway."""
    mesh = make_mesh(*FSDP)
    with jax.numpy_dtype_promotion("standard"):
        experiment = make_experiment({"objective": "medusa1", "dtype": "bfloat16"}, mesh)
        batch = packed_batch(np.random.default_rng(0), ROWS, LENGTH, CONFIG.vocab_size)
        arguments = experiment.state, experiment.frozen, global_batch(mesh, batch)
        tree = load_tree("mc_sim_7b_63", NUM_HEADS)
        program = compiled_update(experiment, mesh).lower(*arguments, tree).as_text()
    for kind, dtype in (("all_gather", "bf16"), ("reduce_scatter", "f32")):
        found = re.findall(rf'"stablehlo.{kind}".*?-> tensor<[\dx]*x(\w+)>', program, re.S)
        assert dtype in found
    assert set(found) == {"f32"}


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_codes_lie_where_their_matrix_does(kind):
    """On rows and columns; a scale for 64 columns of NF4 goes with them."""
    mesh, wide = make_mesh(1, 2, 4), {"hidden_size": 128, "intermediate_size": 64, "head_dim": 16}
    config = dataclasses.replace(CONFIG, num_layers=1, **wide)
    changes = {"objective": "medusa2", "lora_rank": 8, "quantize": kind}
    experiment = make_experiment(changes, mesh, config)
    matrix = experiment.frozen["backbone"]["layers_0"]["attn"]["q"]["weight"]
    assert matrix.qvalue.sharding.spec == PartitionSpec("tensor", "fsdp")
    assert matrix.qvalue.addressable_shards[0].data.shape == (16, 64)
    assert matrix.scale.addressable_shards[0].data.shape == (16, 1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_device_holds_an_eighth(recipe):
    experiment = one_step(recipe, FSDP).experiment
    paths, _ = jax.tree_util.tree_flatten_with_path((experiment.state, experiment.frozen))
    # Adapters are small: their halves B are split over "tensor" alone.
    leaves = [leaf for path, leaf in paths if "lora" not in jax.tree_util.keystr(path)]
    whole = sum(leaf.nbytes for leaf in leaves)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert whole / 8 <= held < whole / 7
