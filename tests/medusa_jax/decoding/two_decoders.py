"""One of the two processes of test_two_processes.py: decodes with a model spread over both.

Arguments: number of the process, port of the coordinator, file for the result.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax

from medusa_jax.decoding.runtime import make_request, make_runtime
from medusa_jax.io.placement import place_params
from medusa_jax.mesh import make_mesh
from tests.medusa_jax.decoding.batches import PROMPTS, queued, rows
from tests.medusa_jax.tiny import tiny_lm


def spread(params, mesh):
    return place_params(jax.tree.map(jax.device_get, params), mesh)


def main(number: str, port: str, file: str) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"localhost:{port}", 2, int(number))
    mesh = make_mesh(data=1, tensor=2)
    lm = tiny_lm()
    lm = dataclasses.replace(
        lm, params=spread(lm.params, mesh), heads_params=spread(lm.heads_params, mesh)
    )
    runtime = make_runtime(lm)
    state = runtime.advance(runtime.start(make_request([20] * 3), PROMPTS)).state
    refilled = queued(lm, PROMPTS * 2, [20, 3, 9, 20, 5, 20], 2)
    Path(file).write_text(json.dumps([rows(state), refilled]))


if __name__ == "__main__":
    main(*sys.argv[1:])
