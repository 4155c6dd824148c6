"""Tiny random transformers models, one per architecture, and what they compute (needs torch)."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)  # these matrices are too small to share

# Shorter than the longest sequences of the tests, so that both are crossed.
WINDOW = 8
ORIGINAL_CONTEXT = 16
# Tiny differences in rounding must not change a greedy token: share of the range of the logits.
CLEAR_MARGIN = 1e-4

LAYER_TYPES = ["full_attention", "sliding_attention", "full_attention"]

SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LARGE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_COMMON = {
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _rope(kind: str, theta: float = 10000.0, **numbers: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **numbers}}


# name: model_type and what differs from the common configuration.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_mha": ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama_gqa_tied": ("llama", {"tie_word_embeddings": True} | _rope("default", 500.0)),
    "llama_linear": ("llama", _rope("linear", factor=2.5)),
    "llama_dynamic": (
        "llama",
        {"max_position_embeddings": ORIGINAL_CONTEXT} | _rope("dynamic", factor=4.0),
    ),
    # With 8 dimensions: one frequency is kept, two are interpolated, one is divided.
    "llama_llama3": (
        "llama",
        {"head_dim": 8}
        | _rope(
            "llama3",
            100.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    "llama_head_dim": ("llama", {"head_dim": 10}),
    "llama_bias": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral_window": ("mistral", {"sliding_window": WINDOW}),
    "mistral_full": ("mistral", {"sliding_window": None}),
    "ministral": (
        "ministral",
        {"sliding_window": WINDOW, "layer_types": LAYER_TYPES, "head_dim": 8},
    ),
    "zephyr": ("mistral", {"sliding_window": 4096, "tie_word_embeddings": False}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True} | _rope("default", 1e6)),
    "qwen2_window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True} | _rope("default", 1e6)),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """What transformers computes for one prompt.

    Attributes:
      prompt: token ids.
      logits_TV: float32, at every position of the prompt.
      continuation: token ids of the greedy continuation.
      margin: smallest lead of a greedy token over the second best, relative to the logits' range.
    """

    prompt: list[int]
    logits_TV: np.ndarray
    continuation: list[int]
    margin: float


def save_model(name: str, size: dict[str, int], folder: Path) -> None:
    """Saves a random model: NumPy's numbers, so that torch versions agree, and no flat softmax."""
    kind, changes = ARCHITECTURES[name]
    if "layer_types" in changes:
        changes = changes | {"layer_types": LAYER_TYPES[: size["num_hidden_layers"]]}
    config = transformers.AutoConfig.for_model(kind, **(_COMMON | size | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for key, value in model.named_parameters():
            mean = 1.0 if "norm" in key else 0.0
            std = 2 / value.shape[1] ** 0.5 if value.ndim == 2 else 0.3
            value.copy_(torch.from_numpy(mean + std * rng.normal(size=tuple(value.shape))))
    model.save_pretrained(folder)


def reference(source: Path, prompt: list[int], num_new: int) -> Reference:
    """Logits of a prompt and its greedy continuation by `num_new` tokens (fewer up to EOS).

    The source is a folder or a GGUF file.
    """
    token_BT = torch.tensor([prompt])
    with torch.inference_mode():
        logits_TV = _fresh(source)(token_BT).logits[0].numpy()
        out = _fresh(source).generate(
            token_BT,
            max_new_tokens=num_new,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    step_logits_OV = torch.cat(out.logits).numpy()
    best_OV = np.sort(step_logits_OV, axis=-1)
    margin = (best_OV[:, -1] - best_OV[:, -2]).min() / np.ptp(step_logits_OV)
    return Reference(prompt, logits_TV, out.sequences[0, len(prompt) :].tolist(), float(margin))


def continuation(
    source: Path, prompt: list[int], num_new: int, processors: list[transformers.LogitsProcessor]
) -> list[int]:
    """Token ids of the continuation that is greedy after these processors."""
    out = _fresh(source).generate(
        torch.tensor([prompt]),
        max_new_tokens=num_new,
        do_sample=False,
        logits_processor=transformers.LogitsProcessorList(processors),
    )
    return out[0, len(prompt) :].tolist()


def clear_reference(folder: Path, length: int, num_new: int, vocab_size: int) -> Reference:
    """Reference of the first random prompt whose continuation has no near ties."""
    for seed in itertools.count():
        rng = np.random.default_rng([length, seed])
        found = reference(folder, rng.integers(0, vocab_size, length).tolist(), num_new)
        if found.margin > CLEAR_MARGIN:
            return found
    raise AssertionError("unreachable")


def _fresh(source: Path) -> Any:
    # A new model each time: dynamic rope remembers the longest sequence it has seen.
    gguf = source.suffix == ".gguf"
    return transformers.AutoModelForCausalLM.from_pretrained(
        source.parent if gguf else source,
        gguf_file=source.name if gguf else None,
        attn_implementation="eager",
        dtype=torch.float32,
    ).eval()
