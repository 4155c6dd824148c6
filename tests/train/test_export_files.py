"""What is exported loads as it is, bit by bit, and decodes the same tokens."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

import medusa_jax
from medusa_jax.errors import UserError
from medusa_jax.io.heads.load import find_heads, load_heads
from medusa_jax.io.hf.model_export import to_dtype
from medusa_jax.io.model import load_model
from medusa_jax.nn.llama import Llama, causal_mask
from medusa_jax.nn.lora import Lora
from tests.train.exports import (
    DRAFT,
    OWN,
    ROOT,
    SCALE,
    SHARED,
    TOKEN_MAP,
    assert_same,
    noisy,
    random_heads,
    random_lora,
    recipe,
    settings_in,
    write,
)
from train import export_files as exports
from train.export_files import export_run
from train.random_model import RANDOM_TINY, load_base, load_lm


@pytest.fixture(scope="module")
def base():
    return load_base(RANDOM_TINY, np.float32)


@pytest.mark.parametrize(
    ("format", "config", "dtype"),
    [
        ("A", OWN, "float32"),
        ("A", OWN, "bfloat16"),
        ("C", SHARED, "float16"),
        ("C", ROOT, "float32"),
        ("C", DRAFT, "float32"),
        ("vllm", OWN, "bfloat16"),
    ],
)
def test_heads_alone_come_back_bit_by_bit(base, tmp_path, format, config, dtype):
    heads = random_heads(config, base, jnp.dtype(dtype))
    params = {"heads": heads} | ({"token_map": TOKEN_MAP} if config.draft_vocab else {})
    folder = write(tmp_path / "heads", base, params, format, dtype)
    assert not (folder / "backbone").exists()
    assert settings_in(folder)["base_model_name_or_path"] == "org/base"
    found, loaded = load_heads(folder, hidden_size=64, vocab_size=264, dtype=jnp.dtype(dtype))
    assert found == config
    wanted = heads | ({"token_map": jnp.asarray(TOKEN_MAP)} if config.draft_vocab else {})
    assert_same(loaded, wanted)


@pytest.mark.parametrize("format", ["A", "vllm", "B"])
def test_heads_that_share_the_lm_head_get_its_rows(base, tmp_path, format):
    folder = write(tmp_path / "x", base, {"heads": random_heads(SHARED, base)}, format)
    found, loaded = load_heads(folder, hidden_size=64, vocab_size=264, dtype=jnp.float32)
    assert found == dataclasses.replace(SHARED, own_projection=True)
    for rows in loaded["projection"]["weight"]:
        np.testing.assert_array_equal(rows, base.params["embed"]["weight"])


def test_whole_model_with_untouched_backbone(base, tmp_path):
    """Format B of MEDUSA-1: other software's names, our bits, the same greedy tokens."""
    heads = random_heads(OWN, base)
    folder = write(tmp_path / "model", base, {"heads": heads}, "B")
    tensors = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert {"medusa_head.1.0.linear.bias", "medusa_head.1.1.weight"} <= tensors.keys()
    raw = settings_in(folder)
    assert raw["architectures"] == ["LlamaForCausalLM"]
    assert (raw["medusa_num_heads"], raw["medusa_num_layers"]) == (2, 1)
    assert (raw["torch_dtype"], raw["dtype"], raw["_name_or_path"]) == (
        *["float32"] * 2,
        "org/base",
    )
    assert raw["tie_word_embeddings"] is True
    assert find_heads(folder) == folder
    lm = medusa_jax.load(str(folder), dtype="float32", tree="chain:2")
    assert (lm.config, lm.eos_ids, lm.heads_config) == (base.config, base.eos_ids, OWN)
    assert_same(lm.params, base.params)
    assert_same(lm.heads_params, heads)
    original = load_lm(RANDOM_TINY, dtype="float32")
    original = dataclasses.replace(original, heads_config=OWN, heads_params=heads).with_tree(
        "chain:2"
    )
    texts = [
        medusa_jax.generate(x, ["What do bees make?"], max_new_tokens=12) for x in (lm, original)
    ]
    assert texts[0][0].token_ids == texts[1][0].token_ids
    assert len(texts[0][0].token_ids) == 12


def check_merged(found, base, lora):
    """W + scale * B A in numpy, and the norms and the embedding as they were."""
    adapters = flatten_dict(lora, is_leaf=lambda _, x: "a" in x)
    assert len(adapters) == 5 * 7 + 1
    for path, value in flatten_dict(found).items():
        original = path if path != ("lm_head", "weight") else ("embed", "weight")
        wanted = np.asarray(flatten_dict(base.params)[original], np.float64)
        if path[:-1] in adapters:
            a, b = (np.asarray(adapters[path[:-1]][x], np.float64) for x in ("a", "b"))
            wanted = wanted + SCALE * (b @ a)
            assert np.abs(wanted - np.asarray(flatten_dict(base.params)[original])).max() > 1e-3
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params, lora=None):
    token_BT = jnp.arange(24, dtype=jnp.int32)[None]
    lora = lora and Lora(lora, SCALE)
    llama, mask = Llama(config), causal_mask(24)
    return llama.apply({"params": params}, token_BT, token_BT, mask, lora=lora)[0]


def test_whole_model_with_adapters(base, tmp_path):
    """Format B of MEDUSA-2: the adapters are in the weights, and the LM head is untied."""
    lora, heads = random_lora(base), random_heads(OWN, base)
    folder = write(tmp_path / "model", base, {"heads": heads, "lora": lora}, "B")
    assert settings_in(folder)["tie_word_embeddings"] is False
    loaded = load_model(str(folder), jnp.float32)
    assert loaded.config == dataclasses.replace(base.config, tie_embeddings=False)
    check_merged(loaded.params, base, lora)
    trained = hidden(base.config, base.params, lora)
    exported = hidden(loaded.config, loaded.params)
    np.testing.assert_allclose(exported, trained, rtol=1e-4, atol=1e-4)
    assert_same(load_heads(folder, hidden_size=64, vocab_size=264, dtype=jnp.float32)[1], heads)


@pytest.mark.parametrize(("format", "config"), [("A", SHARED), ("C", ROOT), ("vllm", SHARED)])
def test_changed_backbone_lies_beside_its_heads(base, tmp_path, format, config):
    lora = random_lora(base)
    params = {"heads": random_heads(config, base), "lora": lora}
    folder = write(tmp_path / "x", base, params, format)
    name = settings_in(folder)["base_model_name_or_path"]
    assert name == str(folder / "backbone")
    assert "medusa_num_heads" not in settings_in(folder / "backbone")
    lm = medusa_jax.load(name, str(folder), dtype="float32")
    check_merged(lm.params, base, lora)
    for model in (name, str(folder)):  # each is found from the other
        again = medusa_jax.load(model, dtype="float32")
        assert_same(again.params, lm.params)
        assert_same(again.heads_params, lm.heads_params)
    if format != "C":
        for rows in lm.heads_params["projection"]["weight"]:
            np.testing.assert_array_equal(rows, lm.params["lm_head"]["weight"])


def test_backbone_trained_as_a_whole(base, tmp_path):
    backbone = noisy(base.params, 1)
    params = {"heads": random_heads(SHARED, base), "backbone": backbone}
    folder = write(tmp_path / "x", base, params, "C")
    assert "lm_head.weight" not in load_file(folder / "backbone" / "model.safetensors")
    loaded = load_model(str(folder / "backbone"), jnp.float32)
    assert loaded.config == base.config
    assert_same(loaded.params, backbone)


def test_files_of_a_model_folder_are_kept(base, tmp_path):
    """A folder of format B as the base: its tokenizer stays as it is, its heads are replaced."""
    first = write(tmp_path / "first", base, {"heads": random_heads(OWN, base)}, "B")
    raw = settings_in(first) | {"initializer_range": 0.125}
    (first / "config.json").write_text(json.dumps(raw))
    again = load_model(str(first), jnp.float32)
    params = {"heads": random_heads(SHARED, base), "backbone": noisy(base.params)}
    backbone = write(tmp_path / "second", again, params, "C") / "backbone"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (backbone / name).read_bytes() == (first / name).read_bytes()
    assert settings_in(backbone)["initializer_range"] == 0.125
    assert not any(key.startswith("medusa") for key in settings_in(backbone))
    assert find_heads(backbone) == tmp_path / "second"


def test_large_models_are_cut_into_files(base, tmp_path, monkeypatch):
    monkeypatch.setitem(exports.save_model.__kwdefaults__, "shard_bytes", 200_000)
    folder = write(tmp_path / "model", base, {"heads": random_heads(OWN, base)}, "B")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 4
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    stored = {key: file.name for file in files for key in load_file(file)}
    assert stored == index["weight_map"]
    sizes = [sum(x.nbytes for x in load_file(file).values()) for file in files]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert max(sizes) <= 200_000
    assert find_heads(folder) == folder
    lm = medusa_jax.load(str(folder), dtype="float32")
    assert_same(lm.params, base.params)


def test_nothing_is_written_over(base, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="x exists: name a new folder, or remove it first"):
        write(tmp_path / "x", base, {"heads": random_heads(OWN, base)}, "A")
    assert [file.name for file in tmp_path.rglob("*")] == ["x", "notes.txt"]
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", base, {"heads": random_heads(OWN, base)}, "A")


def test_a_failure_leaves_nothing(base, tmp_path):
    heads = random_heads(OWN, base)
    lora = random_lora(base)
    lora["layers_3"]["mlp"]["up"]["b"] = lora["layers_3"]["mlp"]["up"]["b"] * 1e9
    with pytest.raises(UserError, match=r"layers.3.mlp.up_proj.weight .*beyond .* float16: export"):
        write(tmp_path / "x", base, {"heads": heads, "lora": lora}, "B", "float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "format", "mend"),
    [
        (ROOT, "B", "only C"),
        (ROOT, "vllm", "only C"),
        (DRAFT, "A", "vllm or C"),
        (OWN, "C", "or A"),
    ],
)
def test_formats_that_cannot_hold_the_heads(base, tmp_path, config, format, mend):
    params = {"heads": random_heads(config, base)}
    params |= {"token_map": TOKEN_MAP} if config.draft_vocab else {}
    with pytest.raises(UserError, match=mend):
        write(tmp_path / "x", base, params, format)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_float16_does_not_have_is_refused():
    """Also one that became infinite when the base was loaded in float16."""
    for x in (np.float32([1e5]), np.float16([np.inf])):
        with pytest.raises(UserError, match="w has values beyond the range of float16"):
            to_dtype("w", x, np.dtype(np.float16))
    assert to_dtype("w", np.float16([1]), np.dtype(np.float16)).tolist() == [1]


def test_a_run_is_exported_by_its_settings(base, tmp_path):
    settings = recipe(
        own_projection=False, draft_vocab=5, export_format="C", export_dtype="float32"
    )
    params = {"heads": random_heads(DRAFT, base)}
    export_run(tmp_path / "export", settings, params, token_map=TOKEN_MAP)
    # No one else has a random model: it comes along, and is found.
    name = settings_in(tmp_path / "export")["base_model_name_or_path"]
    assert name == str(tmp_path / "export" / "backbone")
    assert_same(medusa_jax.load(str(tmp_path / "export"), dtype="float32").params, base.params)
    found, _ = load_heads(tmp_path / "export", hidden_size=64, vocab_size=264, dtype=jnp.float32)
    assert found == DRAFT
    with pytest.raises(UserError, match="exists"):
        export_run(tmp_path / "export", settings, params, token_map=TOKEN_MAP)
    none = dataclasses.replace(settings, export_format="none")
    with pytest.raises(UserError, match="choose one with --format"):
        export_run(tmp_path / "y", none, params)


@pytest.mark.parametrize("model", [None, "org/model", "folder", "export"])
def test_the_base_is_named_so_that_others_find_it(base, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "export" / "backbone").mkdir(parents=True)
    (tmp_path / "export" / "backbone" / "config.json").write_text("{}")
    settings = dataclasses.replace(recipe(export_format="A"), model=model)
    params = {"heads": random_heads(OWN, base)}
    monkeypatch.setattr(exports, "_base", lambda *_: base)
    export_run(tmp_path / "x", settings, params)
    wanted = {
        None: "HuggingFaceTB/SmolLM2-135M-Instruct",
        "folder": str(tmp_path / "folder"),
        "export": str(tmp_path / "export" / "backbone"),
    }
    assert settings_in(tmp_path / "x")["base_model_name_or_path"] == wanted.get(model, model)


def test_a_template_that_came_from_the_folders_name_is_kept(base, tmp_path):
    """Vicuna's tokenizers have none; `load_tokenizer` knows it by "vicuna" in the path."""
    folder = write(tmp_path / "vicuna", base, {"heads": random_heads(OWN, base)}, "B")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    vicuna = load_model(str(folder), jnp.float32)
    assert "ASSISTANT:" in vicuna.tokenizer.chat_template
    params = {"heads": random_heads(OWN, base), "backbone": noisy(base.params)}
    again = write(tmp_path / "mine", vicuna, params, "B")
    assert load_model(str(again), jnp.float32).tokenizer.chat_template == (
        vicuna.tokenizer.chat_template
    )
