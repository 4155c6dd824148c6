"""What is written for a network without a config.json is read as the same network."""

import dataclasses

import pytest

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf.config import parse_config
from medusa_jax.io.hf.config_export import hf_config
from medusa_jax.io.hf.tokenizer import quiet_transformers

BASE = LlamaConfig(
    vocab_size=96,
    hidden_size=64,
    intermediate_size=80,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    max_position=512,
)
LLAMA3 = RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 8192)
NETWORKS = {
    "llama": BASE,
    "llama tied": dataclasses.replace(BASE, tie_embeddings=True, rms_norm_eps=1e-6),
    "llama biased": dataclasses.replace(BASE, qkv_bias=True, o_bias=True, mlp_bias=True),
    "llama llama3": dataclasses.replace(BASE, max_position=131072, rope=LLAMA3),
    "llama linear": dataclasses.replace(BASE, rope=RopeConfig(1e4, "linear", 4.0)),
    "llama dynamic": dataclasses.replace(
        BASE, rope=RopeConfig(1e4, "dynamic", 4.0, original_max_position=128)
    ),
    "mistral": dataclasses.replace(BASE, windows=(64,) * 3),
    "ministral": dataclasses.replace(BASE, windows=(None, 64, 64)),
    "qwen2": dataclasses.replace(BASE, qkv_bias=True),
    "qwen2 window": dataclasses.replace(BASE, qkv_bias=True, windows=(None, 64, 64)),
    "qwen3": dataclasses.replace(BASE, qk_norm=True),
    "qwen3 window": dataclasses.replace(BASE, qk_norm=True, windows=(64, None, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name):
    raw = hf_config(NETWORKS[name])
    assert raw["model_type"] == name.split()[0]
    assert parse_config(raw) == NETWORKS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_reads_the_same(name):
    config = NETWORKS[name]
    raw = hf_config(config)
    with quiet_transformers() as transformers:
        read = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw))
    assert read.architectures[0].lower().startswith(raw["model_type"])
    assert (read.head_dim, read.num_key_value_heads) == (32, 2)
    assert (read.rms_norm_eps, read.tie_word_embeddings) == (
        config.rms_norm_eps,
        config.tie_embeddings,
    )
    assert read.rope_parameters["rope_theta"] == config.rope.theta
    assert read.rope_parameters["rope_type"] == config.rope.kind
    if config.rope.kind != "default":
        assert read.rope_parameters["factor"] == config.rope.factor
    if raw["model_type"].startswith(("qwen", "ministral")):
        sliding = [name == "sliding_attention" for name in read.layer_types]
        assert sliding == [window is not None for window in config.windows or (None,) * 3]
    if raw["model_type"] != "llama":
        assert (read.sliding_window or None) == next(filter(None, config.windows), None)


@pytest.mark.parametrize(
    "change",
    [
        {"o_bias": True},
        {"qkv_bias": True, "mlp_bias": True},
        {"windows": (None, 64, 32)},
        {"qk_norm": True, "qkv_bias": True},
    ],
)
def test_networks_that_nobody_else_has_are_refused(change):
    with pytest.raises(UserError, match="no Hugging Face configuration: export the heads alone"):
        hf_config(dataclasses.replace(BASE, **change))
