"""Steps of training, compiled for GPUs that are not there."""

import jax
import pytest

from medusa_jax.mesh import make_mesh
from medusa_jax.plan.build import build
from medusa_jax.plan.topology import find_topology
from tests.medusa_jax.plan.compilers import needs_gpu_compiler
from tests.train.small_runs import CONFIG, LORA, make
from train.planning.experiment import train_program

pytestmark = needs_gpu_compiler


@pytest.mark.parametrize(("dtype", "by_triton"), [("float32", False), ("bfloat16", True)])
def test_no_kernels_are_tried_out_for_products_in_float32(dtype, by_triton):
    """Dozens for each product, and seconds for each kernel, where there is a GPU to try them on."""
    topology = find_topology("h100:1")
    settings = make("model", "data", (1, 1, 1), **LORA, dtype=dtype)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        program = train_program(settings, CONFIG, make_mesh(1, 1, 1, devices=topology.devices))
        text = build(topology, program.compiled, program.parts()).text
    assert text is not None
    assert ("gemm_fusion" in text) is by_triton
    assert by_triton or "__cublas" in text
