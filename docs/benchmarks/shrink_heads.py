"""How small the heads in the package can be made after training, and what that costs them.

  python docs/benchmarks/shrink_heads.py replies.jsonl smollm2_bytes.json

Every matrix is rounded to int8 with a scale per output, or replaced by its best approximation of a
lower rank (singular values, both factors in float16). An exact walk over replies of the model
(`train.self_distill`) then counts the steps that greedy decoding takes. Intervals are a bootstrap
over replies, paired (`train.reporting.statistics`).
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import medusa_jax
from medusa_jax.chat import tokenize
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.tree.presets import load_tree
from train.data import sharegpt
from train.evaluation.scores import score
from train.reporting.statistics import draw_prompts, estimate

HALF = 2  # bytes of a float16
SEED = 0
Shrink = Callable[[np.ndarray], tuple[np.ndarray, int]]


def as_it_is(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """The matrix in float16, and its bytes."""
    return matrix.astype(np.float16).astype(np.float32), HALF * matrix.size


def to_int8(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes from -127 to 127 with a float16 scale per output."""
    scale = (np.abs(matrix).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    return np.rint(matrix / scale) * scale.astype(np.float32), matrix.size + HALF * scale.size


def to_rank(rank: int) -> Shrink:
    """Two factors of the given rank."""

    def shrink(matrix: np.ndarray) -> tuple[np.ndarray, int]:
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        left = (u[:, :rank] * s[:rank]).astype(np.float16).astype(np.float32)
        right = vh[:rank].astype(np.float16).astype(np.float32)
        return left @ right, HALF * (left.size + right.size)

    return shrink


WAYS: dict[str, Shrink] = {
    "float16": as_it_is,
    "int8": to_int8,
    **{f"rank {rank}": to_rank(rank) for rank in (192, 96, 48)},
}


def shrunk(value: Any, shrink: Shrink) -> tuple[Any, int]:
    """A tree of parameters with its square matrices shrunk, and the bytes of all its arrays."""
    if isinstance(value, dict):
        parts = {name: shrunk(part, shrink) for name, part in value.items()}
        return {k: part for k, (part, _) in parts.items()}, sum(n for _, n in parts.values())
    array = np.asarray(value)
    if array.dtype == np.int32:
        return array, array.nbytes
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        return array, HALF * array.size
    stack = [shrink(matrix) for matrix in array.reshape(-1, *array.shape[-2:])]
    matrices = np.stack([matrix for matrix, _ in stack]).reshape(array.shape)
    return matrices.astype(np.float32), sum(size for _, size in stack)


def main(data: str, output: str) -> None:
    """Measures every way and writes the file."""
    target = check_output(output)
    lm = medusa_jax.load(tree="chain:0", dtype="float32")
    tree = load_tree("smollm2_135m_63")
    rows = list(sharegpt.checked_rows(Path(data), "stop", print))
    examples = [
        tokenize(
            lm.tokenizer,
            sharegpt.messages(row.value),
            truncated=bool(row.value.get("truncated", False)),
            max_length=2048,
        )
        for row in rows
    ]
    drawn_RN = draw_prompts(len(examples), SEED)
    found, first = [], None
    for name, shrink in WAYS.items():
        params, size = shrunk(lm.heads_params, shrink)
        own = dataclasses.replace(lm, heads_params=params)
        each = [score(own, tree, [example], lambda count: None) for example in examples]
        tokens, steps = [s.num_tokens for s in each], [s.steps for s in each]
        sums = (np.asarray([x], float) for x in (tokens, steps))
        value = estimate(*sums, drawn_RN, "ratio", np.random.default_rng(SEED))
        first = first or value
        ratio = value.versus(first)
        row: dict[str, Any] = {"heads": name, "bytes": size}
        row["tokens_per_step"] = [value.value, *value.interval]
        row["versus_first"] = [ratio.value, *ratio.interval]
        print(row, flush=True)
        found.append(row | {"tokens": tokens, "steps": steps})
    about = environment("docs.benchmarks.shrink_heads")
    write_json(target, about | {"replies": len(examples), "rows": found})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How small the heads can be made.")
    for name in ("data", "output"):
        parser.add_argument(name)
    try:
        main(**vars(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
