"""The decode program of a small model, compiled for GPUs that are not there."""

import dataclasses
import math

import jax
import pytest
from jax.sharding import AxisType, Mesh

from infer.planning.abstract import decode_program
from infer.planning.decoding import plan_decoding
from medusa_jax.mesh import AXES
from medusa_jax.plan.build import build
from medusa_jax.plan.costs import unknown_loops
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from medusa_jax.tree.presets import load_any_tree
from tests.infer.planning.wishes import MATRICES, wish
from tests.medusa_jax.plan.compilers import needs_gpu_compiler

pytestmark = needs_gpu_compiler

WISH = wish("mc_sim_7b_63", "gpu")
HEAD_BLOCKS = 4 * (2048 * 2048 + 2048)  # the tree is four deep
CACHE = 2 * 2 * 2 * 8 * 128 * 1024


def compiled(name, wish):
    """The program, its arguments, and what the compiler says of its memory."""
    topology = find_topology(name)
    program = decode_program(wish, topology.devices[0])
    built = build(topology, program.compiled, program.parts())
    return parse(built.text), program, built


def copies(program, sizes):
    """Instructions before and in the decode loop that write as much, in 16 bits each."""
    (loop,) = unknown_loops(program)
    moved = ("parameter", "get-tuple-element", "tuple", "while", "bitcast")
    return [
        f"{instruction.name}: {array}"
        for name in (program.entry, loop.called["body"])
        for instruction in program.computations[name].instructions.values()
        if instruction.opcode not in moved and "output_to_operand_aliasing" not in instruction.text
        for array in instruction.results
        if array.dtype in ("bf16", "f16") and array.size in sizes
    ]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_neither_parameters_nor_cache_are_copied(batch_size):
    wish = dataclasses.replace(WISH, batch_size=batch_size)
    program, decode, built = compiled("h200:1", wish)
    sizes = {math.prod(leaf.shape) for leaf in jax.tree.leaves(decode.arguments[0])}
    sizes = {size for size in sizes if size > 1_000_000}
    cache = {math.prod(x.shape) for x in jax.tree.leaves(decode.arguments[1].cache.layers)}
    assert len(sizes) >= 4
    assert copies(program, sizes | cache) == []
    assert built.temp_bytes < 0.2 * built.argument_bytes
    assert built.text.count("tree_attention") > 0 < built.text.count("append_tokens")


def test_traffic_is_bounded_by_the_weights():
    """Weights once, the LM head for the heads too, the cache, and the products' parts."""
    topology = find_topology("h200:1")
    plan = plan_decoding(topology, topology.devices[0], WISH, tokens_per_step=2.0)
    weights = 2 * (MATRICES + 2 * 32768 * 2048 + HEAD_BLOCKS) + CACHE
    assert weights < plan.hbm_traffic_bytes < 1.5 * weights
    assert plan.step_cycles_compiler is None
    assert plan.step_ms_roofline == pytest.approx(1e3 * plan.hbm_traffic_bytes / 4800e9, rel=0.01)
    assert plan.tokens_per_second == pytest.approx(2e3 / plan.step_ms_roofline)
    # 64 rows through layers and LM head, one through the heads' blocks, four through the LM head.
    rows = 64 * (MATRICES + 32768 * 2048) + HEAD_BLOCKS + 4 * 32768 * 2048
    assert plan.flops == pytest.approx(2 * rows, rel=0.05)


def test_a_t4_has_products_where_their_matrices_are():
    """Without Triton nothing is merged, and the cache's slots fit its library."""
    wish = dataclasses.replace(WISH, dtype="float16", tree=load_any_tree("mc_sim_7b_63:16"))
    program, decode, built = compiled("t4:1", wish)
    sizes = {math.prod(leaf.shape) for leaf in jax.tree.leaves(decode.arguments[0])}
    assert copies(program, {size for size in sizes if size > 1_000_000}) == []
    assert "xla.gpu.triton" not in built.text
    merged = {(2048 + 2 * 1024) * 2048, 2 * 8192 * 2048}
    assert copies(program, merged) == []


def test_exact_float32_uses_kernels_that_are_compiled_already():
    _, _, built = compiled("h100:1", dataclasses.replace(WISH, dtype="float32"))
    assert "__cublas" in built.text
    assert "gemm_fusion" not in built.text


@pytest.mark.parametrize(
    ("tree", "options"),
    [
        ("chain:0", {}),
        ("mc_sim_7b_63", {}),
        ("chain:0", {"dtype": "float16"}),
        ("chain:0", {"quantize": "int8"}),
    ],
)
def test_tensor_parallel_decoding(tree, options):
    """Two sums over devices per layer, and nothing as large as a matrix is gathered."""
    topology = find_topology("h100:8")
    mesh = jax.make_mesh(
        (1, 1, 4), AXES, axis_types=(AxisType.Auto,) * 3, devices=topology.devices[:4]
    )
    assert isinstance(mesh, Mesh)
    wish = dataclasses.replace(WISH, tree=load_any_tree(tree), **options)
    plan = plan_decoding(topology, mesh, wish)
    assert plan.num_devices == 4
    moved = plan.collective_bytes
    rows = 1 if tree == "chain:0" else 64
    # Of two layers, float32; of the embedding, 16 or 8 bits: of a lone row it looks two up.
    width = 1 if options.get("quantize") else 2
    sums = 2 * 2 * rows * 2048 * 4 + max(rows, 2) * 2048 * width
    assert moved["all-reduce"] + 4 * moved["reduce-scatter"] == pytest.approx(sums, rel=0.01)
    assert moved["all-gather"] < 8 * rows * 2048 * 2 * 2


@pytest.mark.parametrize("tree", ["chain:0", "mc_sim_7b_63"])
def test_int8_takes_half_the_memory(tree):
    topology = find_topology("h100:1")
    wish = dataclasses.replace(WISH, tree=load_any_tree(tree), quantize="int8")
    plan = plan_decoding(topology, topology.devices[0], wish)
    parameters = MATRICES + 2 * 32768 * 2048 + (HEAD_BLOCKS if tree != "chain:0" else 0)
    assert plan.argument_bytes == pytest.approx(parameters + CACHE, rel=0.01)
    assert plan.total_bytes < 1.15 * plan.argument_bytes  # nothing is widened outside the loop
    assert plan.hbm_traffic_bytes < 1.5 * parameters  # nor inside it
