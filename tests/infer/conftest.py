"""The real command line on a tiny real model, with one compilation cache for all processes."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import medusa_jax
from medusa_jax.config import MedusaConfig
from medusa_jax.io.heads.save import save_heads
from medusa_jax.nn.heads import init_heads
from tests.commands import ROOT, Result, quick, run_many

TREE = "mc_sim_7b_63:16"


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """Runs `python -m infer.generate`, or many such commands in one process."""

    environment: dict[str, str]

    def __call__(self, *argv: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "infer.generate", *argv],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """The same command with its outputs in pipes, for tests that interrupt it."""
        # A test run in the background ignores Ctrl-C, and its children would inherit that.
        heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        heed += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        return subprocess.Popen(
            [sys.executable, "-c", heed, "-m", "infer.generate", *argv],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def many(self, commands: list[list[str]]) -> list[Result]:
        return run_many("infer.generate", commands, self.environment)


@pytest.fixture(scope="session")
def cli(tmp_path_factory) -> CommandLine:
    unwanted = ("NO_COLOR", "FORCE_COLOR", "JAX_", "XLA_", "COLUMNS")
    cache = str(tmp_path_factory.mktemp("cache"))
    return CommandLine(quick(without=unwanted) | {"MEDUSA_JAX_CACHE": cache})


@pytest.fixture(scope="session")
def backbone(stories260k) -> medusa_jax.MedusaLM:
    return medusa_jax.load(str(stories260k), "none", dtype="float32")


@pytest.fixture(scope="session")
def heads(backbone, tmp_path_factory) -> Path:
    """Untrained heads: each proposes the LM head's own tokens, and a few of them are right."""
    folder = tmp_path_factory.mktemp("heads")
    V, D = backbone.config.vocab_size, backbone.config.hidden_size
    config = MedusaConfig(num_heads=4, hidden_size=D, vocab_size=V)
    params = init_heads(config, backbone.params["embed"]["weight"], jnp.float32)
    save_heads(folder, config, jax.device_get(params), format="C", base_model="-", vocab_size=V)
    return folder


@pytest.fixture(scope="session")
def lm(stories260k, heads) -> medusa_jax.MedusaLM:
    return medusa_jax.load(str(stories260k), str(heads), dtype="float32", tree=TREE)


@pytest.fixture(scope="session")
def model_copy(stories260k, tmp_path_factory) -> Callable[..., Path]:
    """Makes copies of the model, with changes to its configuration."""

    def copy(**changes: object) -> Path:
        folder = tmp_path_factory.mktemp("model")
        for file in stories260k.iterdir():  # not their modes: the originals may be read-only
            shutil.copyfile(file, folder / file.name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    return copy


@pytest.fixture(scope="session")
def chat_model(model_copy) -> Path:
    """The same model with a chat template."""
    folder = model_copy()
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (folder / "chat_template.jinja").write_text(template)
    return folder
