"""Tests medusa_jax/io/hf_config.py on published configurations and against transformers."""

import json

import pytest
import transformers

from medusa_jax.config import LlamaConfig, RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf_config import eos_ids, parse_config, read_json

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


def tiny(kind: str = "llama", **changes) -> dict:
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 100, "hidden_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {"model_type": kind} | sizes | heads | changes


@pytest.mark.parametrize("name", EXPECTED)
def test_published_models(name):
    raw, expected = EXPECTED[name]
    assert parse_config(raw) == expected
    assert parse_config(new_spelling(raw)) == expected


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("given", [{}, {"num_attention_heads": 64}, {"head_dim": 32}])
def test_missing_keys_mean_what_they_mean_to_transformers(kind, given):
    reference = transformers.CONFIG_MAPPING[kind](**given)
    ours = parse_config({"model_type": kind} | given)
    default_dim = reference.hidden_size // reference.num_attention_heads
    assert ours.head_dim == getattr(reference, "head_dim", default_dim)
    assert ours.vocab_size == reference.vocab_size
    assert ours.hidden_size == reference.hidden_size
    assert ours.intermediate_size == reference.intermediate_size
    assert ours.num_layers == reference.num_hidden_layers
    assert ours.num_heads == reference.num_attention_heads
    assert ours.num_kv_heads == reference.num_key_value_heads
    assert ours.max_position == reference.max_position_embeddings
    assert ours.rms_norm_eps == reference.rms_norm_eps
    assert ours.tie_embeddings == reference.tie_word_embeddings
    assert ours.rope.theta == reference.rope_parameters["rope_theta"]
    window = getattr(reference, "sliding_window", None)
    assert ours.windows == ((window,) * ours.num_layers if window else ())


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_null_means_derived(kind):
    config = parse_config(tiny(kind, num_key_value_heads=None, head_dim=None))
    assert (config.num_kv_heads, config.head_dim) == (4, 16)


def test_biases():
    llama = parse_config(tiny(attention_bias=True, mlp_bias=True))
    assert (llama.qkv_bias, llama.o_bias, llama.mlp_bias) == (True, True, True)
    qwen2 = parse_config(tiny("qwen2"))
    assert (qwen2.qkv_bias, qwen2.o_bias, qwen2.mlp_bias) == (True, False, False)
    qwen3 = parse_config(tiny("qwen3", attention_bias=True))
    assert (qwen3.qkv_bias, qwen3.o_bias, qwen3.mlp_bias) == (True, True, False)
    # transformers' Mistral has no biases whatever the file says.
    mistral = parse_config(tiny("mistral", attention_bias=True, mlp_bias=True))
    assert not any((mistral.qkv_bias, mistral.o_bias, mistral.mlp_bias))


@pytest.mark.parametrize("name", ["type", "rope_type"])
@pytest.mark.parametrize("holder", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("theta_inside", [False, True])
def test_rope_spellings(name, holder, theta_inside):
    theta = {"rope_theta": 5e4}
    scaling = {name: "linear", "factor": 4.0} | (theta if theta_inside else {})
    config = parse_config(tiny(**{holder: scaling}, **({} if theta_inside else theta)))
    assert config.rope == RopeConfig(5e4, "linear", 4.0)


def test_theta_inside_wins_as_in_transformers():
    raw = tiny(rope_theta=1.0, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    reference = transformers.LlamaConfig(**raw)
    assert parse_config(raw).rope.theta == reference.rope_parameters["rope_theta"] == 7.0


def test_rope_scaling_wins_over_rope_parameters_as_in_transformers():
    raw = tiny(
        rope_scaling={"type": "linear", "factor": 2.0},
        rope_parameters={"rope_type": "linear", "factor": 3.0},
    )
    reference = transformers.LlamaConfig(**json.loads(json.dumps(raw)))
    assert parse_config(raw).rope.factor == reference.rope_parameters["factor"] == 2.0


def test_dynamic_grows_from_max_position_embeddings():
    scaling = {"type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 7}
    config = parse_config(tiny(rope_scaling=scaling))
    assert config.rope == RopeConfig(1e4, "dynamic", 3.0, original_max_position=100)
    assert config.max_position == 300


def test_linear_extends_the_context():
    config = parse_config(tiny(rope_scaling={"type": "linear", "factor": 4.0}))
    assert config.max_position == 400


@pytest.mark.parametrize(
    ("beside", "inside", "expected"), [(None, 40, 40), (30, 40, 30), (None, None, 100)]
)
def test_llama3_original_context(beside, inside, expected):
    scaling = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
    raw = tiny(rope_theta=5e5, rope_scaling=scaling)
    if inside:
        scaling["original_max_position_embeddings"] = inside
    if beside:
        raw["original_max_position_embeddings"] = beside
    config = parse_config(raw)
    reference = transformers.LlamaConfig(**json.loads(json.dumps(raw)))
    reference.standardize_rope_params()  # transformers does it when it computes the frequencies
    assert config.rope.original_max_position == expected
    assert reference.rope_parameters["original_max_position_embeddings"] == expected
    assert config.max_position == 100


def test_mistral_windows():
    assert parse_config(tiny("mistral", sliding_window=None)).windows == ()
    assert parse_config(tiny("mistral", sliding_window=9)).windows == (9, 9, 9, 9)
    assert parse_config(tiny("llama", sliding_window=9)).windows == ()


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_qwen_windows(kind):
    slides = tiny(kind, use_sliding_window=True, sliding_window=9)
    assert parse_config(tiny(kind, sliding_window=9, max_window_layers=0)).windows == ()
    assert parse_config(slides | {"max_window_layers": 1}).windows == (None, 9, 9, 9)
    assert parse_config(slides | {"max_window_layers": 4}).windows == ()
    layers = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    assert parse_config(slides | {"layer_types": layers}).windows == (9, None, None, 9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gemma2"}, ["gemma2", "llama", "mistral", "qwen2", "qwen3"]),
        ({"model_type": None}, ["model_type", "llama"]),
        ({"hidden_act": "gelu"}, ["gelu", "silu"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["yarn", "linear", "dynamic"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor"]),
        ({"rope_scaling": {"type": "linear", "factor": "four"}}, ["factor", "four"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["layer type"]),
        ({"rope_theta": None}, ["rope_theta"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            ["partial_rotary_factor"],
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantized"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads 3", "num_attention_heads 4"]),
        ({"hidden_size": "64"}, ["hidden_size", "'64'"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
        ({"rms_norm_eps": None}, ["rms_norm_eps"]),
        ({"head_dim": 7}, ["7"]),
    ],
)
def test_bad_configs_are_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        parse_config(tiny() | changes)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"layer_types": ["full_attention"]}, "names 1 layers"),
        ({"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ({"layer_types": ["sliding_attention"] * 4}, "use_sliding_window"),
        ({"use_sliding_window": True, "max_window_layers": None}, "max_window_layers"),
    ],
)
def test_bad_windows_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        parse_config(tiny("qwen2") | changes)


def test_heads_in_place_of_a_model():
    heads = {"medusa_num_heads": 2, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
    with pytest.raises(UserError, match=r"--medusa.*lmsys/vicuna-7b-v1\.3"):
        parse_config(heads)


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


@pytest.mark.parametrize(
    ("content", "word"), [("{", "JSON"), ("[1]", "object"), (None, "is missing")]
)
def test_read_json_errors(tmp_path, content, word):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=word):
        read_json(path)
