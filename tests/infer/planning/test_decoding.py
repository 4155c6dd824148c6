"""The decode program of a small model, compiled for a TPU v5e that is not there."""

import dataclasses
import math

import jax
import pytest
from jax.sharding import AxisType, Mesh

from infer.planning.abstract import decode_program
from infer.planning.decoding import plan_decoding
from medusa_jax.decoding import programs
from medusa_jax.mesh import AXES, make_mesh
from medusa_jax.plan.build import build
from medusa_jax.plan.costs import unknown_loops
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from medusa_jax.tree.presets import load_any_tree
from tests.infer.planning.wishes import CONFIG, MATRICES, wish
from tests.medusa_jax.plan.compilers import needs_tpu_compiler

pytestmark = needs_tpu_compiler

WISH = wish("mc_sim_7b_63:16", "tpu")
HEAD_BLOCKS = 5 * (2048 * 2048 + 2048)
PARAMETERS = 2 * 32768 * 2048 + MATRICES + 5 * 2048  # norms


@pytest.fixture(scope="module")
def topology():
    return find_topology("v5e:2x2")


@pytest.fixture(scope="module")
def compiled(topology):
    """The program, and its abstract arguments."""
    program = decode_program(WISH, topology.devices[0])
    built = build(topology, program.compiled, program.parts())
    return parse(built.text), program, built


def runs(program):
    """Instructions of the entry and of the decode loop's body."""
    (loop,) = unknown_loops(program)
    for name in (program.entry, loop.called["body"]):
        yield from program.computations[name].instructions.values()


def test_arguments_by_hand(compiled):
    _, program, built = compiled
    depth = program.decoder.drafter.max_depth
    used_heads = HEAD_BLOCKS * depth // 5
    cache = 2 * 2 * 8 * 128 * (1000 + depth)
    assert built.argument_bytes == pytest.approx(2 * (PARAMETERS + used_heads + cache), rel=0.02)
    assert built.total_bytes < 1.1 * built.argument_bytes


def test_no_parameter_is_copied(compiled):
    """Neither before the loop nor in it: not in the device's memory."""
    program, decode, _ = compiled
    leaves = jax.tree.leaves(decode.arguments[0])
    sizes = {math.prod(leaf.shape) for leaf in leaves if len(leaf.shape) > 1}
    sizes = {size for size in sizes if size > 1_000_000}
    assert len(sizes) >= 4
    moved = ("parameter", "get-tuple-element", "tuple", "while", "bitcast")
    copies = [
        f"{instruction.name}: {array}"
        for instruction in runs(program)
        if instruction.opcode not in moved and not instruction.opcode.endswith("-start")
        for array in instruction.results
        if array.space == 0 and array.size in sizes
    ]
    assert copies == []


def test_the_cache_is_not_copied(compiled):
    program, decode, _ = compiled
    shapes = {leaf.shape for leaf in jax.tree.leaves(decode.arguments[1].cache.layers)}
    copies = [
        f"{instruction.name}: {array}"
        for instruction in runs(program)
        if instruction.opcode == "copy"
        for array in instruction.results
        if array.space == 0 and array.dims in shapes
    ]
    assert copies == []


def test_the_estimates_are_bounded_by_the_weights(topology):
    """A step reads the weights once, the LM head for the heads too, and multiplies 16 rows."""
    plan = plan_decoding(topology, topology.devices[0], WISH, tokens_per_step=2.0)
    assert plan.fits
    used_heads = HEAD_BLOCKS * 4 // 5
    weights = 2 * (PARAMETERS + used_heads)  # of the embedding a few rows, of the LM head twice
    assert plan.hbm_traffic_bytes == pytest.approx(weights, rel=0.1)
    rows = 16 * (MATRICES + 32768 * 2048) + HEAD_BLOCKS + 5 * 32768 * 2048
    assert plan.flops == pytest.approx(2 * rows, rel=0.2)
    assert plan.step_ms_roofline == pytest.approx(1e3 * plan.hbm_traffic_bytes / 819e9)
    seconds = max(plan.step_cycles_compiler / 1.5e9, plan.step_ms_roofline / 1e3)
    assert plan.tokens_per_second == pytest.approx(2 / seconds)
    assert set(plan.collective_bytes.values()) == {0}


@pytest.mark.parametrize("name", ["v4:1x1x1", "v6e:1x1"])
def test_other_tpus(name):
    """A v4's compiler leaves no kernel's result on the chip."""
    other = find_topology(name)
    plan = plan_decoding(other, other.devices[0], WISH)
    assert plan.fits
    assert plan.hbm_traffic_bytes == pytest.approx(2 * (PARAMETERS + HEAD_BLOCKS * 4 // 5), rel=0.1)


def test_tensor_parallel_decoding(topology):
    """Every device has a quarter of the matrices, and two sums over devices per layer."""
    shape = (1, 1, 4)
    devices = topology.devices
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    assert isinstance(mesh, Mesh)
    plain = dataclasses.replace(WISH, tree=load_any_tree("chain:0"))
    plan = plan_decoding(topology, mesh, plain)
    assert plan.num_devices == 4
    assert plan.overhead == 1.0
    assert plan.argument_bytes == pytest.approx(2 * PARAMETERS / 4, rel=0.05)

    # Layers share one function, and so the channels of their sums.
    deep = dataclasses.replace(CONFIG, num_layers=5)
    plan = plan_decoding(topology, mesh, dataclasses.replace(plain, config=deep))
    row = 2048 * 2
    assert (
        plan.collective_bytes["all-reduce"] == (1 + 2 * 5) * 8 * row
    )  # a lone row is there 8 times
    plan = plan_decoding(topology, mesh, dataclasses.replace(WISH, config=deep))
    part = 16 * 2048 // 4  # of all nodes' rows, in float32 but for the embedding's
    assert plan.collective_bytes["reduce-scatter"] == part * (2 + 2 * 5 * 4)


def test_a_mesh_copies_no_lm_head(topology):
    """Not even in parts, to hide the gathering of 16 rows."""
    mesh = make_mesh(data=1, tensor=4, devices=topology.devices)
    size = {"hidden_size": 4096, "num_layers": 1, "num_heads": 32, "vocab_size": 131072}
    wish = dataclasses.replace(WISH, config=dataclasses.replace(CONFIG, **size))
    heads = dataclasses.replace(WISH.heads, hidden_size=4096, vocab_size=131072)
    plan = plan_decoding(topology, mesh, dataclasses.replace(wish, heads=heads))
    assert plan.temp_bytes < 131072 * 4096 * 2 / 4


def test_a_v5p_takes_larger_parts_of_a_matrix_at_once(monkeypatch):
    """By its compiler's cycles that pays, for a plain step too."""
    v5p = find_topology("v5p:1x1x1")
    size = {"hidden_size": 4096, "intermediate_size": 11008, "num_layers": 1, "num_heads": 32}
    wish = dataclasses.replace(WISH, config=dataclasses.replace(CONFIG, **size))
    wish = dataclasses.replace(wish, tree=load_any_tree("chain:0"))
    wide = plan_decoding(v5p, v5p.devices[0], wish)
    programs.forget()
    monkeypatch.setattr(programs, "_TPU_OPTIONS", {})
    narrow = plan_decoding(v5p, v5p.devices[0], wish)
    programs.forget()
    assert wide.step_cycles_compiler < 0.95 * narrow.step_cycles_compiler


@pytest.mark.parametrize("tree", ["chain:0", "mc_sim_7b_63"])
def test_int8_takes_half_the_memory(topology, tree):
    """A byte per element of every matrix; norms and scales are small."""
    wish = dataclasses.replace(WISH, tree=load_any_tree(tree), quantize="int8")
    plan = plan_decoding(topology, topology.devices[0], wish)
    used_heads = HEAD_BLOCKS * load_any_tree(tree).max_depth // 5
    cache = 2 * 2 * 2 * 8 * 128 * 1000
    assert plan.argument_bytes == pytest.approx(PARAMETERS + used_heads + cache, rel=0.01)
    assert plan.total_bytes < 1.15 * plan.argument_bytes  # nothing is widened outside the loop
    lm_heads = 1 if tree == "chain:0" else 2  # read for the nodes, and by the heads
    read = PARAMETERS + used_heads + (lm_heads - 2) * 32768 * 2048
    assert plan.hbm_traffic_bytes < 1.5 * read  # nor inside it
