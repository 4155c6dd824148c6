"""The variants of configs/smollm2_medusa2.py train what they say, a few steps on a small model."""

from pathlib import Path

import jax
import numpy as np
import pytest

import medusa_jax
from configs import smollm2_medusa2
from medusa_jax.io.load import SHIPPED_HEADS
from tests.train.small_runs import run
from train.recipe import make_settings

SIZES = {"batch_size": 4, "seq_len": 64, "steps": 3, "warmup_steps": 1}
SIZES |= {"draft_vocab": 32, "log_every": 1, "held_out": 0.1, "export_dtype": "float32"}


@pytest.fixture(scope="module")
def trained(model, data, tmp_path_factory):
    """Trains a variant and returns its export and what was logged; the shipped heads do not fit the
    model, so that those of the first run, "naive", take their place."""
    folder = tmp_path_factory.mktemp("controls")

    def train(variant: str) -> tuple[medusa_jax.MedusaLM, list[dict]]:
        config = smollm2_medusa2.get_config(variant)
        if config.medusa == str(SHIPPED_HEADS):
            config.medusa = str(folder / "naive" / "export")
        rank = min(config.lora_rank, 4)
        config.update(SIZES, model=model, data=data, lora_rank=rank)
        config.mesh.data = 1
        rows = run(make_settings(config), folder / variant)
        return load(folder / variant / "export"), rows

    def load(export: Path) -> medusa_jax.MedusaLM:
        is_changed = (export / "backbone").is_dir()
        return medusa_jax.load(str(export / "backbone") if is_changed else model, str(export))

    return {v: train(v) for v in ("naive", "naive_own", "naive_stopped", "lora_only", "heads_only")}


def same(one, other) -> bool:
    leaves = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


def test_adapters_alone_leave_the_heads_as_they_were(trained, model):
    (naive, _), (lora_only, rows) = trained["naive"], trained["lora_only"]
    assert same(lora_only.heads_params, naive.heads_params)
    assert not same(lora_only.params, medusa_jax.load(model, "none").params)
    for row in rows:
        if "loss" in row:
            np.testing.assert_allclose(row["loss"], row["lm_loss"], rtol=1e-6)


def test_heads_alone_leave_the_model_as_it_was(trained, model):
    (naive, _), (heads_only, _) = trained["naive"], trained["heads_only"]
    assert same(heads_only.params, medusa_jax.load(model, "none").params)
    assert not same(heads_only.heads_params, naive.heads_params)


def test_projections_of_their_own_are_trained_and_kept(trained):
    lm, _ = trained["naive_own"]
    assert lm.heads_config.own_projection
    assert lm.heads_config.conditioning == "none"
    first, *others = lm.heads_params["projection"]["weight"]
    assert all(np.abs(first - other).max() > 1e-6 for other in others)


def test_a_stopped_lm_head_is_another_run_from_the_same_start(trained):
    naive, stopped = (trained[name][1] for name in ("naive", "naive_stopped"))
    np.testing.assert_allclose(stopped[0]["loss"], naive[0]["loss"], rtol=1e-6)
    assert stopped[-1]["lm_loss"] != naive[-1]["lm_loss"]
