"""Lets a model write its own training replies, with our batched decoding loop.

Examples:
  Replies as in the paper, sampled at temperature 0.3, to every human turn of 1000 conversations:
    python -m train.self_distill --prompts sharegpt --output replies.jsonl --limit 1000

  Greedy replies to first turns:
    python -m train.self_distill --prompts sharegpt --output replies.jsonl --temperature 0 \\
      --max_turns 1

  A 33B model, spread over the four chips of each host of a TPU slice; run on all hosts:
    python -m train.self_distill --model lmsys/vicuna-33b-v1.3 --prompts sharegpt.json \\
      --output /mnt/shared/replies.jsonl --mesh tensor=4

  A quarter of the work on each of four machines that know nothing of each other:
    python -m train.self_distill ... --output replies.jsonl --shard_index 0 --shard_count 4

python -m train.prompts writes prompts of kinds that ShareGPT's first turns lack.

The model answers the first human turn of every conversation, then sees its own answer and the next
human turn, and so on. A conversation ends after its last human turn, before a prompt that is too
long, or with a reply that --max_new_tokens cuts off; such a row has "truncated": true, so that
training does not take the cut for an end of turn. The output is ShareGPT-format JSON lines.

Rows are kept in OUTPUT.part-* as they are done; at the end they become OUTPUT, in an order that
depends on the seed alone. Rerun the same command to resume, with as many processes as you like;
OUTPUT.meta.json records the settings, and other settings are refused. Replies depend on the seed,
the conversation's id and its turns, not on the batch.

In a TPU pod, SLURM, Open MPI or Kubernetes job, every process takes its own share of the
conversations and spreads the model over its own devices (--mesh); elsewhere, give
--coordinator_address, --num_processes and --process_id. They share the folder of --output, and the
last one to finish writes the file. Where machines share no folder, put all parts into one and run
the command there.
"""

import hashlib
import time
from typing import Any

import jax
from absl import flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import medusa_jax
from medusa_jax import GenerationConfig, MedusaLM
from medusa_jax.cli.console import make_console
from medusa_jax.cli.model_flags import define_dtype, define_mesh, define_model
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output
from medusa_jax.mesh import parse_mesh
from medusa_jax.paths import user_path
from train import distributed
from train.data import sharegpt
from train.distill import dialogues, files, replies
from train.distill.conversations import Conversation, read_conversations
from train.weights import weights_digest

flags.adopt_module_key_flags(distributed)
_MODEL = define_model()
_MEDUSA = flags.DEFINE_string(
    "medusa",
    "none",
    "Heads that speed up decoding: folder, file or hub id. In float32 replies stay the same.",
)
_DTYPE = define_dtype("A file is resumed in the dtype it was begun in.")
_PROMPTS = flags.DEFINE_string(
    "prompts", None, "ShareGPT-format JSON or JSON lines (.gz, .xz), or 'sharegpt': its sample."
)
_OUTPUT = flags.DEFINE_string("output", None, "File of JSON lines to write or to resume.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature",
    0.3,
    "Sampling temperature, over the model's whole distribution; 0 is greedy.",
    lower_bound=0.0,
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    None,
    "Conversations in total, over all shards; raise it to extend a file. Default: all of them.",
    lower_bound=1,
)
_TURNS = flags.DEFINE_integer(
    "max_turns", None, "Human turns to answer per conversation. Default: all.", lower_bound=1
)
_NEW = flags.DEFINE_integer("max_new_tokens", 512, "Longest reply in tokens.", lower_bound=1)
_LONGEST = flags.DEFINE_integer(
    "max_prompt_tokens",
    2048,
    "Longest prompt in tokens, earlier turns included; less if the model's context is too short.",
    lower_bound=1,
)
_BATCH = flags.DEFINE_integer(
    "batch_size",
    64,
    "Most conversations decoded at once; fewer where a prompt and its reply may exceed 512 tokens.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed for choosing conversations and for sampling.",
    lower_bound=0,
    upper_bound=2**32 - 1,
)
_DATA_ERRORS = flags.DEFINE_enum(
    "data_errors", "stop", sharegpt.DATA_ERRORS, "What to do about malformed rows of the prompts."
)
_MESH = define_mesh()
_SHARD_INDEX = flags.DEFINE_integer(
    "shard_index", None, "Which share to work on, from 0.", lower_bound=0
)
_SHARD_COUNT = flags.DEFINE_integer(
    "shard_count", None, "Number of shares, for independent machines.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Writes the replies that are missing."""
    del argv
    _check_flags()
    generation = GenerationConfig(
        max_new_tokens=_NEW.value,
        temperature=_TEMPERATURE.value,
        seed=_SEED.value,
    )
    settings = dialogues.ReplySettings(generation, _LONGEST.value, _BATCH.value)
    index, count = _share()
    path = check_output(str(_OUTPUT.value))
    mesh = None if _MESH.value is None else parse_mesh(_MESH.value, jax.local_devices())
    conversations, record = _read_prompts()
    done = files.read_rows(path, record).keys()
    setup_compilation_cache()
    lm = medusa_jax.load(_MODEL.value, _MEDUSA.value, dtype=_DTYPE.value, mesh=mesh)
    template = hashlib.sha256(str(lm.tokenizer.chat_template).encode()).hexdigest()[:16]
    record |= {"dtype": lm.dtype, "weights": weights_digest(lm), "chat_template": template}
    if done:
        files.check_settings(path, record)
    dialogues.check_context(lm, settings)
    chosen = dialogues.select(lm, conversations, settings, _LIMIT.value)
    share = chosen[index::count]
    pending = [conversation for conversation in share if conversation.name not in done]
    part = files.part_path(path, index, count)
    summary = "0 new"
    if pending:
        with files.append_rows(path, part, record) as add:
            summary = _answer(lm, pending, settings, add, len(share))
    print(f"{path}: {len(share)} conversations, of which {summary}")
    order = [conversation.name for conversation in conversations]
    if missing := files.join(path, record, order, {c.name for c in chosen}):
        print(f"{part} is done; {missing} conversations are still missing in other parts")


def _check_flags() -> None:
    if not (_PROMPTS.value and _OUTPUT.value):
        raise UserError("--prompts and --output are both needed")
    if (_SHARD_INDEX.value is None) != (_SHARD_COUNT.value is None):
        raise UserError("give both --shard_index and --shard_count, or neither")
    index, count = _SHARD_INDEX.value, _SHARD_COUNT.value
    if index is not None and count is not None and index >= count:
        raise UserError(
            f"--shard_index={index} with --shard_count={count}: count from 0 to {count - 1}"
        )


def _share() -> tuple[int, int]:
    """Which share of how many is this process's."""
    if _SHARD_INDEX.value is not None and _SHARD_COUNT.value is not None:
        return _SHARD_INDEX.value, _SHARD_COUNT.value
    # From here on, a process that fails or has less to do must not end the others: they compute
    # apart and, on a CPU, without the collectives that would go on asking for the others.
    jax.config.update("jax_cpu_collectives_implementation", None)
    distributed.initialize_from_flags()
    share = jax.process_index(), jax.process_count()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    return share


def _read_prompts() -> tuple[list[Conversation], dict[str, Any]]:
    """The conversations, and the settings that the replies depend on."""
    is_sample = _PROMPTS.value == "sharegpt"
    path = sharegpt.sharegpt_path() if is_sample else user_path(str(_PROMPTS.value))
    conversations = read_conversations(
        path,
        seed=_SEED.value,
        max_turns=_TURNS.value,
        data_errors="skip" if is_sample else _DATA_ERRORS.value,
    )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {flag.name: flag.value for flag in (_MODEL, _MEDUSA, _TEMPERATURE, _SEED, _TURNS)}
    limits = {flag.name: flag.value for flag in (_NEW, _LONGEST)}
    return conversations, record | limits | {"prompts_sha256": digest}


def _answer(
    lm: MedusaLM,
    pending: list[Conversation],
    settings: dialogues.ReplySettings,
    add: Any,
    total: int,
) -> str:
    """Answers with a progress bar; returns a summary in words."""
    begin = time.perf_counter()
    tokens, seconds, speed = 0, 0.0, ""
    columns = (TextColumn("replies"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=make_console(stderr=True)) as progress:
        task = progress.add_task("", total=total, completed=total - len(pending))
        for batch in replies.answer(lm, pending, settings):
            add(batch.rows)
            tokens, seconds = tokens + batch.num_tokens, seconds + batch.seconds
            speed = f"{tokens:,} tokens, {tokens / max(seconds, 1e-9):,.0f} tokens/s"
            progress.update(task, advance=len(batch.rows), description=speed)
    return f"{len(pending)} new ({speed or '0 tokens'}) in {time.perf_counter() - begin:.0f} s"


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
