"""Training runs of a second: a small model that can chat, its settings, and what a run logged."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import medusa_jax
from configs import tiny
from medusa_jax.config import LlamaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf.model_export import save_model
from medusa_jax.io.model import LoadedModel
from tests.commands import ROOT, quick
from tests.medusa_jax.packed import random_backbone
from train.metrics import MetricsWriter
from train.random_model import byte_tokenizer
from train.recipe import make_settings
from train.run import train
from train.settings import Settings

CONFIG = LlamaConfig(
    vocab_size=264,
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_position=256,
    tie_embeddings=True,
)
SMALL = {
    "steps": 6,
    "batch_size": 4,
    "seq_len": 64,
    "warmup_steps": 1,
    "log_every": 1,
    "eval_every": 3,
    "save_every": 3,
}
LORA = {"objective": "medusa2", "lora_rank": 4, "lora_dropout": 0.1}
CACHED = {"objective": "medusa1", "hidden_states": "cached"}


def write_model(folder: Path) -> str:
    """A random model of one layer whose tokens are bytes, as Hugging Face writes one."""
    params = jax.tree.map(np.asarray, random_backbone(CONFIG))
    tokenizer = byte_tokenizer()
    base = LoadedModel(CONFIG, params, tokenizer, (tokenizer.eos_token_id,), Path("small"))
    folder.mkdir()
    save_model(folder, base, params, dtype="float32", name="small")
    return str(folder)


REPLY = "A dog that sings."


def write_data(path: Path, rows: int = 40) -> str:
    """Conversations of about 70 bytes, with one reply for all that a small model can learn."""
    with path.open("w") as file:
        for i in range(rows):
            name = ("Tim", "Lily", "Ben", "Sue")[i % 4]
            turns = [
                {"from": "human", "value": f"Who is {name}, {i}?"},
                {"from": "gpt", "value": REPLY},
            ]
            file.write(json.dumps({"id": f"c{i}_0", "conversations": turns}) + "\n")
    return str(path)


def make(model: str, data: str, mesh: tuple[int, int, int] = (1, 1, 1), **changes: Any) -> Settings:
    """Settings of a short run."""
    config = tiny.get_config()
    config.update(model=model, data=data, **(SMALL | changes))
    config.mesh.update(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    return make_settings(config)


def run(settings: Settings, workdir: Path) -> list[dict[str, Any]]:
    """Trains and returns what was logged."""
    with jax.numpy_dtype_promotion("standard"):  # optax and grain mix integers and floats
        train(settings, workdir)
    return logged(workdir)


def logged(workdir: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, without what depends on the clock."""
    return rows_of((workdir / "metrics.jsonl").read_text())


def rows_of(text: str) -> list[dict[str, Any]]:
    """`logged`, of the text of the file."""
    rows = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and k != "mfu"} for row in rows]


@contextlib.contextmanager
def stop_after(step: int) -> Iterator[None]:
    """A context in which a run gets SIGTERM in this step."""
    write = MetricsWriter.write

    def write_and_signal(self: MetricsWriter, row: dict[str, Any]) -> None:
        write(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsWriter, "write", write_and_signal)
        yield


def stopped_after(step: int, settings: Settings, workdir: Path) -> None:
    """Runs until SIGTERM arrives in a step."""
    with stop_after(step):
        rows = run(settings, workdir)
    assert [row["step"] for row in rows] == [*range(1, step + 1)]
    assert not (workdir / "export").exists()
    assert (workdir / "checkpoints" / str(step)).is_dir()


def greedy(lm: medusa_jax.MedusaLM, tree: str) -> medusa_jax.Generation:
    """What a model answers one of the questions."""
    return medusa_jax.generate(lm.with_tree(tree), ["Who is Lily, 5?"], max_new_tokens=24)[0]


def start(
    workdir: Path,
    *flags: str,
    compiled: Path,
    devices: int,
    module: str = "train.main",
    cwd: Path = ROOT,
    **changes: Any,
) -> subprocess.Popen[str]:
    """Trains in a process of its own, with so many CPU devices.

    Args:
      workdir: of the run.
      *flags: beside the configuration.
      compiled: folder of compiled programs, see tests/conftest.py.
      devices: how many; even unused ones change the program, which then rounds otherwise.
      module: what to run.
      cwd: its current folder.
      **changes: of the configuration.
    """
    keys = [f"--config.{key}={value}" for key, value in (SMALL | changes).items()]
    command = [sys.executable, "-m", module, f"--config={ROOT}/configs/tiny.py", *keys, *flags]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", f"--compilation_cache={compiled}"],
        cwd=cwd,
        env=quick() | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen, event: Callable[[], bool]) -> None:
    """Returns when the event has happened; the process must not end before."""
    while not event():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def refused(settings: Settings, workdir: Path) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(UserError) as error:
        run(settings, workdir)
    assert "\n" not in str(error.value)
    return str(error.value)
