"""transformers' `generate` on torch, with the weights that we decode with. Needs torch."""

import importlib
import importlib.util
import time
from pathlib import Path
from typing import Any

import jax

from infer.bench.contenders import Answer, Contender
from medusa_jax import MedusaLM
from medusa_jax.config import LlamaConfig
from medusa_jax.environment import cores
from medusa_jax.io.hf.transformers_model import to_transformers


def missing_reason(config: LlamaConfig, path: Path) -> str | None:
    """Why there is nothing to compare with here; None if there is."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed (pip install torch)"
    if jax.default_backend() != "cpu" and not torch_module().cuda.is_available():
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
      max_new_tokens: as for ours: fewer where the context ends.
    """
    torch = torch_module()
    torch.set_num_threads(cores())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    model = load_torch(lm, path).to(device).eval()

    def generate(ids: list[int], limit: int) -> Answer:
        limit = min(limit, lm.config.max_position - len(ids))
        clock = _FirstToken()
        prompt = torch.tensor([ids], device=device)
        begin = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=generation_config(lm, limit),
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


def generation_config(lm: MedusaLM, limit: int) -> Any:
    """Greedy decoding of up to `limit` tokens, ended by the ids that end ours."""
    import transformers

    return transformers.GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=limit,
        eos_token_id=list(lm.eos_ids) or None,
        pad_token_id=lm.eos_ids[0] if lm.eos_ids else 0,
    )


def load_torch(lm: MedusaLM, path: Path) -> Any:
    """transformers' model; `lm`'s own parameters when `path` is a GGUF file."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if path.is_dir():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch_module(), lm.dtype), local_files_only=True
        )
    else:
        model = to_transformers(lm.config, lm.params, lm.dtype)
    # A folder's own settings (penalties, sampling) would otherwise fill in what ours leave open.
    model.generation_config = transformers.GenerationConfig()
    return model


def torch_module() -> Any:
    """torch, which is imported only when it is needed."""
    return importlib.import_module("torch")
