"""Tests medusa_jax/io/model.py."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.errors import UserError
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.io.model import load_model
from medusa_jax.mesh import make_mesh
from medusa_jax.sharding import param_shardings


def copy(source, target):
    for file in source.iterdir():
        shutil.copy(file, target / file.name)
        (target / file.name).chmod(0o644)
    return target


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_folder(stories260k, dtype):
    model = load_model(str(stories260k), dtype)
    assert model.config.num_layers == 5
    found = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), model.params)
    assert found == abstract_params(model.config, dtype)
    assert model.eos_ids == (2,)
    assert model.path == stories260k
    ids = model.tokenizer("Once upon a time")["input_ids"]
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == "Once upon a time"


def test_on_a_mesh(stories260k):
    mesh = make_mesh(1, 2, 4)
    model = load_model(str(stories260k), jnp.float32, mesh)
    shardings = jax.tree.map(lambda array: array.sharding, model.params)
    assert shardings == param_shardings(mesh, model.params)
    assert model.params["embed"]["weight"].addressable_shards[0].data.shape == (128, 32)
    one_device = load_model(str(stories260k), jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, model.params, one_device.params)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [([5, 6], 7, (5, 6, 7, 2)), (None, [8, 2], (8, 2)), (2, 2, (2,))],
)
def test_ends_are_united(stories260k, tmp_path, generation, config, expected):
    folder = copy(stories260k, tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": config}))
    if generation is None:
        (folder / "generation_config.json").unlink()
    else:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    assert load_model(str(folder), jnp.float32).eos_ids == expected


@pytest.mark.parametrize(
    ("removed", "word"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer"),
    ],
)
def test_incomplete_folder(stories260k, tmp_path, removed, word):
    folder = copy(stories260k, tmp_path)
    (folder / removed).unlink()
    with pytest.raises(UserError, match=word):
        load_model(str(folder), jnp.float32)


def test_gguf_files_go_to_the_gguf_reader(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and no more")
    with pytest.raises(UserError, match=r"model\.gguf"):
        load_model(str(path), jnp.float32)


def test_nowhere():
    with pytest.raises(UserError, match="does not exist"):
        load_model("./no/such/model", jnp.float32)
