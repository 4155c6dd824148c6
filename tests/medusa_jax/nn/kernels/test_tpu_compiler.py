"""Whether the TPU's own compiler takes the kernels, and what its decode loop copies.

Skipped where libtpu is not installed. In a process of its own: libtpu cannot share one with the
eight pretended devices of the other tests.
"""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.commands import ordinary

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: pip install libtpu"
)

PROGRAM = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.decoding import step
from medusa_jax.decoding.decoder import Decoder
from medusa_jax.decoding.drafting.drafters import NoDrafter
from medusa_jax.decoding.drafting.make_drafter import make_drafter
from medusa_jax.decoding.rules.greedy import Greedy
from medusa_jax.decoding.runtime import make_request
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.nn.heads import init_heads
from medusa_jax.tree.presets import load_tree

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
sharding = NamedSharding(Mesh(np.array(devices[:1]), ("x",)), PartitionSpec())

def found(batch, spec, head_dim, num_heads, kv_heads):
    config = LlamaConfig(1024, 512, 1024, 2, num_heads, kv_heads, head_dim, 4096,
                         windows=(None, 256))
    tree, dtype = load_tree(spec), jnp.bfloat16
    params, drafter = {"backbone": abstract_params(config, "bfloat16")}, NoDrafter()
    if tree.R > 1:
        heads = MedusaConfig(num_heads=4, hidden_size=512, vocab_size=1024, own_projection=False)
        own = init_heads(heads, jnp.zeros((1024, 512), dtype), dtype)
        drafter, params["drafter"] = make_drafter(heads, own, params["backbone"], tree,
                                                    "bfloat16", "tpu")
    decoder = Decoder(config, Greedy(), drafter, "bfloat16", "bfloat16")
    request = jax.tree.map(jnp.asarray, make_request([8] * batch))
    state = jax.eval_shape(lambda p, r: step.idle(decoder, p, r, capacity=600), params, request)
    rest = jnp.zeros((batch,), bool), jnp.int32(1), jnp.int32(0)
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                          (params, state, *rest))
    compiled = jax.jit(step.decode, static_argnums=0, donate_argnames="state").lower(
        decoder, *arrays).compile()
    text = compiled.as_text()
    copies = []
    for shape in {str(list(x.shape)).replace(" ", "") for x in jax.tree.leaves(state.cache.layers)}:
        kinds = r"\\S* (?:copy|transpose|scatter)\\(.*"
        copies += re.findall(r"= bf16" + re.escape(shape) + kinds, text)
    return {
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
        "copies": copies,
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }

print(json.dumps([found(*case) for case in json.loads(sys.argv[1])]))
"""
# Rows, tree, size of a head, heads and key heads.
CASES = [(1, "mc_sim_7b_63", 64, 8, 4), (2, "chain:3", 128, 8, 4), (2, "chain:0", 64, 8, 4)]
WIDE = (1, "mc_sim_7b_63", 100, 32, 32)  # as OpenLLaMA-3B: all heads are one block


def test_the_loop_runs_kernels_and_never_turns_the_cache_round():
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([*CASES, WIDE])],
        env=ordinary() | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    *results, wide = json.loads(run.stdout)
    for case, found in zip(CASES, results, strict=True):
        assert found["kernels"] >= 4, case
        assert found["copies"] == [], case
        assert found["temp_bytes"] < 8e6, case
    assert wide["kernels"] >= 4  # its small cache is moved onto the chip and back
