"""Tests medusa_jax/io/hf/config.py key by key, and against transformers."""

import json

import pytest
import transformers

from medusa_jax.config import RopeConfig
from medusa_jax.errors import UserError
from medusa_jax.io.hf.config import eos_ids, parse_config


def tiny(kind: str = "llama", **changes) -> dict:
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 100, "hidden_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {"model_type": kind} | sizes | heads | changes


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
    layers = ["full_attention", "sliding_attention"] * 2
    for kind in ("mistral", "ministral"):  # as transformers' AutoConfig reads a mistral
        named = tiny(kind, sliding_window=9, layer_types=layers)
        assert parse_config(named).windows == (None, 9, None, 9)
        assert parse_config(tiny(kind, sliding_window=9)).windows == (9, 9, 9, 9)


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
        ({"rope_theta": float("nan")}, ["rope_theta"]),
        ({"rope_scaling": {"type": ["linear"]}}, ["rope scaling", "linear"]),
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
        ({"layer_types": 5}, "must be a list, not 5"),
        ({"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ({"layer_types": ["sliding_attention"] * 4}, "use_sliding_window"),
        ({"use_sliding_window": True, "max_window_layers": None}, "max_window_layers"),
    ],
)
def test_bad_windows_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        parse_config(tiny("qwen2") | changes)


@pytest.mark.parametrize("found", ["</s>", "2", ["a"], [[2]], 2**40, True, 2.0])
def test_ends_that_are_no_token_ids_are_refused(found):
    for files in (({"eos_token_id": found},), ({}, {"eos_token_id": found})):
        with pytest.raises(UserError, match="it must be a token id or a list of them"):
            eos_ids(*files)


def test_ends():
    assert eos_ids({"eos_token_id": 2}) == (2,)
    assert eos_ids({"eos_token_id": 2}, {"eos_token_id": [7, 8]}) == (7, 8)
    assert eos_ids({"eos_token_id": 2}, {}) == (2,)
    assert eos_ids({}, None) == ()


def test_heads_in_place_of_a_model():
    heads = {"medusa_num_heads": 2, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
    with pytest.raises(UserError, match=r"--medusa.*lmsys/vicuna-7b-v1\.3"):
        parse_config(heads)
    with pytest.raises(UserError, match="pass this with --medusa"):
        parse_config({"model_type": "medusa", "num_heads": 2})
