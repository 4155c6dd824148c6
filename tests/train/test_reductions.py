"""What devices add up among themselves in a step of training, according to the TPU's compiler."""

import jax
import pytest

from configs import tiny
from medusa_jax.config import LlamaConfig
from medusa_jax.mesh import make_mesh
from medusa_jax.plan.build import build
from medusa_jax.plan.parse import parse
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_tpu_compiler
from train.planning.experiment import train_program
from train.recipe import make_settings

pytestmark = needs_tpu_compiler

# Of 128 columns on each of 4 devices: the compiler scatters nothing narrower.
NETWORK = LlamaConfig(
    vocab_size=512,
    hidden_size=512,
    intermediate_size=1024,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=128,
    max_position=128,
    qk_norm=True,
)
OBJECTIVES = {
    "medusa1": {},
    "self_distill": {"lora_rank": 8, "lora_dropout": 0.0},
    "medusa2": {},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_added_up_in_float32(objective):
    """Of heads, of adapters, and of a whole backbone with its norms, all computed in bfloat16."""
    config = tiny.get_config()
    config.update(objective=objective, seq_len=128, num_heads=4, **OBJECTIVES[objective])
    config.update(dtype="bfloat16", remat="nothing", mesh={"data": 1, "fsdp": 4, "tensor": 1})
    topology = find_topology("v5e:2x2")
    mesh = make_mesh(1, 4, 1, devices=topology.devices)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        program = train_program(make_settings(config), NETWORK, mesh)
        built = build(topology, program.compiled, program.parts())
    sums = [
        array
        for computation in parse(built.text).computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode.removesuffix("-start") in ("all-reduce", "reduce-scatter")
        for array in instruction.results
        if "f" in array.dtype
    ]
    assert max(array.size for array in sums) >= 512 * 512 / 4  # a matrix, not only losses
    assert {array.dtype for array in sums} == {"f32"}
