"""Published configurations, copied whole, and what medusa_jax/io/hf/config.py makes of them."""

import json

import pytest
import transformers

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.io.hf.config import eos_ids, parse_config

LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
# Written before grouped-query attention: no num_key_value_heads, no rope keys at all.
VICUNA_7B_V13 = {
    "_name_or_path": "vicuna-7b-v1.3",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.28.1",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA31_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 128256,
}
MISTRAL_7B_V01 = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
ZEPHYR_7B_BETA = MISTRAL_7B_V01 | {
    "_name_or_path": "mistralai/Mistral-7B-v0.1",
    "pad_token_id": 2,
    "transformers_version": "4.35.0",
}
QWEN25_HALF_B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
EXPECTED = {
    "llama2": (
        LLAMA2_7B,
        LlamaConfig(32000, 4096, 11008, 32, 32, 32, 128, 4096, 1e-5, RopeConfig(1e4)),
    ),
    "vicuna": (
        VICUNA_7B_V13,
        LlamaConfig(32000, 4096, 11008, 32, 32, 32, 128, 2048, 1e-6, RopeConfig(1e4)),
    ),
    "llama3.1": (
        LLAMA31_8B,
        LlamaConfig(
            *(128256, 4096, 14336, 32, 32, 8, 128, 131072, 1e-5),
            RopeConfig(5e5, "llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ),
    "mistral": (
        MISTRAL_7B_V01,
        LlamaConfig(
            *(32000, 4096, 14336, 32, 32, 8, 128, 32768, 1e-5, RopeConfig(1e4)),
            windows=(4096,) * 32,
        ),
    ),
    "zephyr": (
        ZEPHYR_7B_BETA,
        LlamaConfig(
            *(32000, 4096, 14336, 32, 32, 8, 128, 32768, 1e-5, RopeConfig(1e4)),
            windows=(4096,) * 32,
        ),
    ),
    "qwen2.5": (
        QWEN25_HALF_B,
        LlamaConfig(
            *(151936, 896, 4864, 24, 14, 2, 64, 32768, 1e-6, RopeConfig(1e6), True),
            qkv_bias=True,
        ),
    ),
    "qwen3": (
        QWEN3_06B,
        LlamaConfig(
            *(151936, 1024, 3072, 28, 16, 8, 128, 40960, 1e-6, RopeConfig(1e6), True),
            qk_norm=True,
        ),
    ),
}


def new_spelling(raw: dict) -> dict:
    """The same configuration as transformers itself writes it today."""
    kind = transformers.CONFIG_MAPPING[raw["model_type"]]
    written = json.loads(kind.from_dict(dict(raw)).to_json_string(use_diff=False))
    assert "rope_theta" not in written
    assert "rope_theta" in written["rope_parameters"]
    return written


@pytest.mark.parametrize("name", EXPECTED)
def test_published_models(name):
    raw, expected = EXPECTED[name]
    assert parse_config(raw) == expected
    assert parse_config(new_spelling(raw)) == expected


def test_full_medusa_model_is_a_model():
    raw = LLAMA2_7B | {"medusa_num_heads": 5, "medusa_num_layers": 1}
    assert parse_config(raw) == EXPECTED["llama2"][1]


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (LLAMA31_8B, None, (128001, 128008, 128009)),
        (QWEN25_HALF_B, {"eos_token_id": [151645, 151643]}, (151645, 151643)),
        (QWEN25_HALF_B, {"temperature": 1.0}, (151645,)),
        ({"eos_token_id": 0}, {"eos_token_id": None}, (0,)),
        ({"eos_token_id": 1}, {"eos_token_id": 0}, (0,)),
        ({"eos_token_id": None}, None, ()),
        ({}, {}, ()),
    ],
)
def test_eos_ids(config, generation, expected):
    assert eos_ids(config, generation) == expected
