"""Lets the model write its own training replies, with our batched decode loop.

Example:
  python -m train.self_distill --prompts sharegpt.jsonl.xz --output replies.jsonl --limit 3000

The first human turn of every conversation is answered; the output is ShareGPT JSON lines. A row
whose reply was cut off at --max_new_tokens has "truncated": true, so that training does not learn
an end of turn there. Running the command again continues where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import medusa_jax
from medusa_jax import MedusaLM
from medusa_jax.cli import run_main, setup_compilation_cache
from medusa_jax.errors import UserError
from medusa_jax.generation import encode_prompt
from train import sharegpt

_MODEL = flags.DEFINE_string("model", None, "Folder, hub id or GGUF file; default: SmolLM2.")
_PROMPTS = flags.DEFINE_string("prompts", None, "Conversations whose first turn is asked.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON lines to write or to continue.")
_LIMIT = flags.DEFINE_integer("limit", 1000, "Replies in all.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Prompts decoded at once.", lower_bound=1)
_NEW = flags.DEFINE_integer("max_new_tokens", 192, "Longest reply in tokens.", lower_bound=1)
_LONGEST = flags.DEFINE_integer("max_prompt_tokens", 128, "Longer prompts are left out.")
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0: greedy.", lower_bound=0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the prompts' order and of sampling.")


def _ordered(path: str, seed: int) -> list[dict[str, Any]]:
    """Rows in an order that depends on the seed and the ids alone."""

    def rank(row):
        return hashlib.sha256(f"{seed}:{row.get('id')}".encode()).digest()

    return sorted(sharegpt.read_rows(path), key=rank)


def _questions(lm: MedusaLM, rows: list[dict[str, Any]], longest: int) -> Iterator[tuple[str, str]]:
    """(id, question) of the first chunk of each conversation whose prompt is short enough."""
    for row in rows:
        turns = sharegpt.messages(row)
        # ShareGPT's ids end in the number of a chunk; later ones start in mid-conversation.
        first_chunk = str(row.get("id", "")).endswith("_0")
        if not (
            first_chunk and turns and turns[0]["role"] == "user" and turns[0]["content"].strip()
        ):
            continue
        try:
            if len(encode_prompt(lm, turns[0]["content"])) <= longest:
                yield str(row["id"]), turns[0]["content"]
        except UserError:  # longer than the model's context
            continue


def _row(name: str, question: str, reply: medusa_jax.Generation) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply.text}]
    truncated = reply.finish_reason == "length"
    return {"id": name, "conversations": turns, "truncated": truncated}


def _pending(lm: MedusaLM, done: set[str]) -> list[tuple[str, str]]:
    wanted = []
    for name, question in _questions(
        lm, _ordered(str(_PROMPTS.value), _SEED.value), _LONGEST.value
    ):
        if len(wanted) == _LIMIT.value:
            break
        wanted.append((name, question))
    return [(name, question) for name, question in wanted if name not in done]


def main(argv: list[str]) -> None:
    """Writes the replies that are missing."""
    del argv
    if not (_PROMPTS.value and _OUTPUT.value):
        raise UserError("--prompts and --output are both needed")
    output = Path(_OUTPUT.value)
    done = _resume(output)
    setup_compilation_cache()
    lm = medusa_jax.load(_MODEL.value, "none")
    pending = _pending(lm, done)
    # Neighbours of one length share a prompt bucket.
    size = _BATCH.value * 8
    for start in range(0, len(pending), size):
        pending[start : start + size] = sorted(
            pending[start : start + size], key=lambda item: len(item[1])
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "a", encoding="utf-8") as file:
        _answer(lm, pending, file)


def _resume(output: Path) -> set[str]:
    """Ids already answered; cuts off the half line that a kill may have left."""
    if not output.exists():
        return set()
    text = output.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        os.truncate(output, len(whole))
    return {json.loads(line)["id"] for line in whole.split(b"\n") if line}


def _answer(lm: MedusaLM, pending: list[tuple[str, str]], file: Any) -> None:
    replies = medusa_jax.generate_batches(
        lm,
        [question for _, question in pending],
        batch_size=_BATCH.value,
        max_new_tokens=_NEW.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[speed]}")) as progress:
        task = progress.add_task("replies", total=len(pending), speed="")
        tokens, seconds = 0, 0.0
        for i, ((name, question), reply) in enumerate(zip(pending, replies, strict=True)):
            file.write(json.dumps(_row(name, question, reply), ensure_ascii=False) + "\n")
            tokens += reply.num_new_tokens
            if i % _BATCH.value == 0:
                file.flush()
                seconds += reply.prefill_seconds + reply.decode_seconds
            progress.update(task, advance=1, speed=f"{tokens / max(seconds, 1e-9):.0f} tokens/s")


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
