"""transformers' batched `generate` on torch: left-padded prompts, a budget per row."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from infer.bench.torch_model import generation_config, load_torch, torch_module
from medusa_jax import MedusaLM
from medusa_jax.environment import cores


def static_batches(lm: MedusaLM, path: Path, batch_size: int) -> Callable[..., Any]:
    """A function of prompts (token ids) and budgets that gives their answers and the seconds.

    Args:
      lm: our model; see `torch_model.load_torch`.
      path: folder or GGUF file that it was loaded from.
      batch_size: prompts that are decoded together, until the last of them is done.
    """
    torch = torch_module()
    torch.set_num_threads(cores())
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    model = load_torch(lm, path).to(device).eval()

    def answer(prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[list[int]]:
        width, config = max(map(len, prompts)), generation_config(lm, max(budgets))
        pad = [width - len(ids) for ids in prompts]
        rows = [[config.pad_token_id] * n + [*ids] for n, ids in zip(pad, prompts, strict=True)]
        mask = [[0] * n + [1] * (width - n) for n in pad]
        end_B = width + torch.tensor(budgets, device=device)

        def has_its_budget(input_ids: Any, scores: Any, **_: Any) -> Any:
            del scores
            return input_ids.shape[1] >= end_B

        with torch.inference_mode():
            output = model.generate(
                torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
                stopping_criteria=[has_its_budget],
            )
        new = output[:, width:].tolist()
        return [_cut(row, n, lm.eos_ids) for row, n in zip(new, budgets, strict=True)]

    def run(prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> Any:
        begin, answers = time.perf_counter(), []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            answers += answer(prompts[part], budgets[part])
        return answers, time.perf_counter() - begin

    return run


def _cut(token_ids: list[int], budget: int, eos_ids: Sequence[int]) -> list[int]:
    """The tokens without what pads a row that was done before the others."""
    token_ids = token_ids[:budget]
    ends = (i + 1 for i, token in enumerate(token_ids) if token in eos_ids)
    return token_ids[: next(ends, budget)]
