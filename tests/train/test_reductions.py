"""What devices add up over each other in a step of training, by the TPU's compiler."""

import pytest

from medusa_jax.plan.hlo import parse
from tests.medusa_jax.plan.compilers import needs_tpu_compiler, run_module

pytestmark = needs_tpu_compiler

OBJECTIVES = {
    "medusa1": [],
    "self_distill": ["--config.lora_rank=4", "--config.lora_dropout=0."],
    "medusa2": [],
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_added_up_in_float32(objective, tmp_path):
    """Of heads, of adapters, and of a whole backbone with its norms, all computed in bfloat16."""
    done = run_module(
        "train.plan", "--config=configs/tiny.py", f"--config.objective={objective}",
        *OBJECTIVES[objective], "--config.dtype=bfloat16", "--config.remat=nothing",
        "--config.seq_len=32", "--config.mesh.data=1", "--config.mesh.fsdp=4",
        "--topology=v5e:2x2", f"--hlo={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    program = parse((tmp_path / "update.txt").read_text())
    sums = [
        array
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode.removesuffix("-start") in ("all-reduce", "reduce-scatter")
        for array in instruction.results
        if "f" in array.dtype
    ]
    assert max(array.size for array in sums) >= 64 * 64  # a matrix, not only losses
    assert {array.dtype for array in sums} == {"f32"}
