"""transformers' `generate` on torch, with the weights that we decode with. Needs torch."""

import importlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from infer.bench.contenders import Answer, Contender
from infer.bench.environment import cores
from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig, RopeConfig

_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
_MLP = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def missing_reason(config: LlamaConfig, path: Path) -> str | None:
    """Why there is nothing to compare with here; None: there is."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install 'medusa-jax[parity]')"
    if jax.default_backend() != "cpu" and not _torch().cuda.is_available():
        return f"this torch cannot use the {jax.default_backend()} that JAX runs on"
    is_llama = not (config.qk_norm or config.windows) and config.qkv_bias == config.o_bias
    if path.is_file() and not is_llama:
        return "of GGUF files only those of Llama models are compared"
    return None


def transformers_contender(lm: MedusaLM, path: Path, max_new_tokens: int) -> Contender:
    """Greedy `generate` with a cache, stopping at the same ids as we do.

    Args:
      lm: our model; its parameters are copied when `path` is a GGUF file.
      path: folder or GGUF file that it was loaded from.
      max_new_tokens: as ours: less where the context ends.
    """
    torch = _torch()
    torch.set_num_threads(cores())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    model = _load(lm, path).to(device).eval()

    def generate(ids: list[int], limit: int) -> Answer:
        limit = min(limit, lm.config.max_position - len(ids))
        clock = _FirstToken()
        prompt = torch.tensor([ids], device=device)
        begin = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=_generation_config(lm, limit),
                streamer=clock,
            )
        token_ids = output[0, len(ids) :].tolist()
        end = time.perf_counter()
        after = len(token_ids) - 1
        return Answer(token_ids, after, after, clock.seconds[1] - begin, end - clock.seconds[1])

    def warm_up(ids: list[int]) -> None:
        generate(ids, 2)

    return Contender("transformers", None, 1, warm_up, lambda ids: generate(ids, max_new_tokens))


class _FirstToken:
    """A streamer that only looks at the clock: first for the prompt, then for every token."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def put(self, value: Any) -> None:
        del value
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        pass


def _generation_config(lm: MedusaLM, limit: int) -> Any:
    import transformers

    return transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=limit,
        eos_token_id=list(lm.eos_ids) or None,
        pad_token_id=lm.eos_ids[0] if lm.eos_ids else 0,
    )


def _load(lm: MedusaLM, path: Path) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    auto, dtype = transformers.AutoModelForCausalLM, getattr(_torch(), lm.dtype)
    if path.is_dir():
        model = auto.from_pretrained(path, dtype=dtype, local_files_only=True)
    else:
        model = auto.from_config(_llama_config(lm.config), dtype=dtype)
        model.load_state_dict(_state_dict(lm.config, lm.params))
    # A folder's own settings (penalties, sampling) would otherwise fill in what ours leave open.
    model.generation_config = transformers.GenerationConfig()
    return model


def _llama_config(c: LlamaConfig) -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        intermediate_size=c.intermediate_size,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        max_position_embeddings=c.max_position,
        rms_norm_eps=c.rms_norm_eps,
        tie_word_embeddings=c.tie_embeddings,
        attention_bias=c.qkv_bias,
        mlp_bias=c.mlp_bias,
        rope_parameters=_rope_parameters(c.rope),
    )


def _rope_parameters(rope: RopeConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        parameters["factor"] = rope.factor
    if rope.kind == "llama3":
        parameters |= {
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position,
        }
    return parameters


def _state_dict(config: LlamaConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Our backbone parameters under transformers' names."""
    head = params["embed" if config.tie_embeddings else "lm_head"]["weight"]
    named = {
        "model.embed_tokens.weight": params["embed"]["weight"],
        "model.norm.weight": params["final_norm"]["scale"],
        "lm_head.weight": head,
    }
    for i in range(config.num_layers):
        layer, prefix = params[f"layers_{i}"], f"model.layers.{i}."
        named[prefix + "input_layernorm.weight"] = layer["attn_norm"]["scale"]
        named[prefix + "post_attention_layernorm.weight"] = layer["mlp_norm"]["scale"]
        for block, names in (("attn", _ATTENTION), ("mlp", _MLP)):
            theirs = "self_attn." if block == "attn" else "mlp."
            for ours, name in names.items():
                for part, value in layer[block][ours].items():
                    named[f"{prefix}{theirs}{name}.{part}"] = value
    return {name: _tensor(value) for name, value in named.items()}


def _tensor(value: jax.Array) -> Any:
    # By way of float32, which holds every bfloat16: numpy has no bfloat16 that torch reads.
    return _torch().from_numpy(np.array(value, dtype=np.float32))


def _torch() -> Any:
    return importlib.import_module("torch")
