"""One of the two processes of test_distributed.py: trains a toy, is signalled, saves, restores.

Arguments: number of the process, port of the coordinator, working folder.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.errors import UserError
from medusa_jax.io.placement import place
from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings, with_shardings
from train.checkpoints import Checkpoints
from train.distributed import (
    batch_part,
    check_shared,
    global_batch,
    initialize,
    is_first_process,
)
from train.fingerprint import check_same
from train.interrupt import Interrupt

ROWS = np.arange(32, dtype=np.float32).reshape(8, 4)


def data_of(mesh):
    part, parts = batch_part(mesh)
    source = grain.MapDataset.range(64).shuffle(seed=3)[part::parts].repeat()
    return iter(source.batch(4).to_iter_dataset())


def parameters(mesh):
    shapes = {"q": {"weight": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}
    return with_shardings(shapes, param_shardings(mesh, shapes))


@jax.jit
def update(params, batch):
    return jax.tree.map(lambda x: x + batch.astype(jnp.float32).mean(), params)


def train(mesh, workdir: Path, process: int):
    """Runs until process 1 gets SIGTERM; returns the step, the state and the batches to come."""
    params = jax.tree.map(
        lambda leaf: jax.device_put(jnp.zeros(leaf.shape), leaf.sharding), parameters(mesh)
    )
    data = data_of(mesh)
    with Checkpoints(workdir, save_every=1000, keep=2, fingerprint={"a": 1}) as checkpoints:
        with Interrupt() as interrupt:
            for step in range(1, 1000):
                params = update(params, global_batch(mesh, next(data)))
                if process == 1 and step == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                if interrupt.reached(step):
                    break
                time.sleep(0.02)
        checkpoints.save(step, {"params": params}, data, force=True)
    return step, params, [next(data).tolist() for _ in range(3)]


def restore(mesh, workdir: Path):
    data = data_of(mesh)
    with Checkpoints(workdir, save_every=1000, keep=2, fingerprint={"a": 1}) as checkpoints:
        params = checkpoints.restore({"params": parameters(mesh)}, data)["params"]
        return checkpoints.latest, params, [next(data).tolist() for _ in range(3)]


def local(array) -> list:
    return sorted((str(shard.index), shard.data.tolist()) for shard in array.addressable_shards)


def placed(mesh) -> dict:
    """How `place` reads rows, and what it makes of them."""
    asked = []

    def read(rows):
        asked.append([rows.start, rows.stop])
        return ROWS[rows]

    sharding = parameters(mesh)["q"]["weight"].sharding
    return {"rows": asked, "shards": local(place(read, ROWS.shape, sharding))}


def refusal(check, *args) -> str:
    try:
        check(*args)
    except UserError as error:
        return str(error)
    return ""


def refusals(workdir: Path, process: int) -> dict[str, str]:
    """What the checks at the start of a run say."""
    same = {"config": {"steps": 3, "data": "x.jsonl"}, "content of data": "abc"}
    apart = same | {"content of data": f"abc{process}"}
    return {
        "shared": refusal(check_shared, workdir),
        "apart": refusal(check_shared, workdir / f"host_{process}"),
        "read-only": refusal(check_shared, workdir / "file" / "run"),
        "same": refusal(check_same, same),
        "other data": refusal(check_same, apart),
        "other steps": refusal(check_same, {"config": {"data": "x", "steps": process}}),
        "again": refusal(check_shared, workdir),  # nobody hangs after a refusal
    }


def main() -> None:
    process, port, workdir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", 2)
    initialize(f"localhost:{port}", 2, process)
    mesh, other = make_mesh(data=1, fsdp=1, tensor=4), make_mesh(fsdp=2)
    report = {"first": is_first_process(), "parts": [batch_part(mesh), batch_part(other)]}
    total = jax.jit(jnp.sum)(global_batch(other, np.full((2, 3), process + 1.0, np.float32)))
    report |= {"sum": float(total), "placed": placed(mesh)}
    report["refusals"] = refusals(workdir, process)
    step, params, batches = train(other, workdir, process)
    report |= {"step": step, "batches": batches, "value": float(jnp.mean(params["q"]["weight"]))}
    latest, restored, again = restore(other, workdir)
    report |= {"latest": latest, "again": again}
    report["same"] = local(restored["q"]["weight"]) == local(params["q"]["weight"])
    _, elsewhere, _ = restore(mesh, workdir)
    report["elsewhere"] = [
        np.unique(x.data).tolist() for x in elsewhere["q"]["weight"].addressable_shards
    ]
    (workdir / f"report_{process}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
